"""Parameter groups: a learning rate for each part and layer of a model, and no weight decay on some parameters.

rate = lr * ratio of the part * layer_decay ** (layers above it)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_hp.functional.checks import check_factor, check_options
from lightning_hp.module.weight_decay import undecayed_parameters
from lightning_hp.nn.freezing.blocks import blocks_of, children_with_parameters


def parameter_groups(
    module: nn.Module,
    lr: float,
    lr_ratios: Mapping[str, float] | None = None,
    decay: bool = True,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """The trainable parameters of a model, as parameter groups of a torch optimizer.

    Args:
        module: The model. Parameters that do not require a gradient are left out.
        lr: The learning rate, > 0.
        lr_ratios: Factors on ``lr`` for parts of the model, by the path of the part. If several parts contain a
            parameter, the longest path applies.
        decay: Whether to make groups without weight decay, for :func:`undecayed_parameters`.
        layer_decay: The factor from the rate of each block to that of the block below it, see :func:`layers_above`.
            ``None``: all blocks have one rate.

    Returns:
        Groups with ``params``, ``lr``, a ``name`` for ``LearningRateMonitor``, and ``weight_decay`` = 0 in groups
        without weight decay. The optimizer's own weight decay applies to the other groups.

    Raises:
        ValueError: If a path contains no parameter, or no parameter requires a gradient.

    References:
        Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019. He et al., *Bag of Tricks for Image
        Classification with Convolutional Neural Networks*, 2019, section 3.1: no weight decay on normalisation layers
        and biases. Bao et al., *BEiT*, 2022: rates that decay with the layer.

    Example:
        >>> model = nn.ModuleDict({"backbone": nn.Linear(4, 8), "head": nn.Linear(8, 2)})
        >>> for group in parameter_groups(model, lr=0.1, lr_ratios={"backbone": 0.5}):
        ...     print(group["name"], group["lr"], group.get("weight_decay"), len(group["params"]))
        backbone 0.05 None 1
        backbone, no decay 0.05 0.0 1
        rest 0.1 None 1
        rest, no decay 0.1 0.0 1

    """
    ratios = {path: float(ratio) for path, ratio in (lr_ratios or {}).items()}
    check_paths(module, ratios)
    undecayed = undecayed_parameters(module) if decay else set()
    blocks = {} if layer_decay is None else layers_above(module)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        path = max((path for path in ratios if _contains(path, name)), key=len, default="")
        block, depth = blocks.get(parameter, ("", 0))
        title = path or ("rest" if ratios else "all")
        title += (f", {block}" if block else "") + (", no decay" if parameter in undecayed else "")
        if title not in groups:
            rate = lr * ratios.get(path, 1.0) * (1.0 if layer_decay is None else layer_decay**depth)
            groups[title] = {"params": [], "lr": rate, "name": title}
            if parameter in undecayed:
                groups[title]["weight_decay"] = 0.0
        groups[title]["params"].append(parameter)
    if not groups:
        raise ValueError("Expected parameters that require a gradient, but all are frozen.")
    return list(groups.values())


def layers_above(module: nn.Module) -> dict[nn.Parameter, tuple[str, int]]:
    """The block that a parameter is in, and how many blocks are between it and the output.

    The blocks are those of the submodule ``backbone``, if there is one, and all that is outside it, such as a head, is
    one block above them; otherwise those of the model, and the last one counts 0. A parameter of several blocks is in
    the lowest one.

    Args:
        module: The model.

    Returns:
        Name of the block and number for each parameter in a block; 0 for all others.

    Example:
        >>> backbone = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> model = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(2, 2)})
        >>> list(dict.fromkeys(layers_above(model).values()))
        [('backbone.1', 1), ('backbone.0', 2)]

    """
    has_backbone = "backbone" in children_with_parameters(module)
    backbone, prefix = (module.get_submodule("backbone"), "backbone") if has_backbone else (module, "")
    blocks = blocks_of(backbone)
    found: dict[nn.Parameter, tuple[str, int]] = {}
    for number, (name, parameters) in enumerate(reversed(blocks), int(has_backbone)):
        found.update(dict.fromkeys(parameters, (".".join(filter(None, [prefix, name])), number)))
    return found


def check_paths(module: nn.Module, paths: Mapping[str, float]) -> None:
    """Raises ``ValueError`` for a path that contains no parameter of ``module``."""
    for path in paths:
        if not any(_contains(path, name) for name, _ in module.named_parameters()):
            children = ", ".join(children_with_parameters(module))
            raise ValueError(
                f"Expected `lr_ratios` to name parts of the model, such as {children or 'a layer'}, but got {path!r}."
            )


def _contains(path: str, name: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def check_lr_ratios(lr_ratios: Any) -> dict[str, float]:
    """A dictionary from paths of parts of a model to positive numbers.

    Raises:
        TypeError: If it is no mapping from strings to numbers.
        ValueError: If a number is not finite and > 0.

    """
    ratios = check_options("lr_ratios", lr_ratios, "a dict from parts of the model to numbers")
    return {path: _check_ratio(path, ratio) for path, ratio in ratios.items()}


def _check_ratio(path: str, ratio: Any) -> float:
    try:
        return check_factor(f"lr_ratios[{path!r}]", ratio, above=0)
    except ValueError as error:
        raise ValueError(f"{error} To keep a part as it is, freeze it: `requires_grad_(False)`.") from error
