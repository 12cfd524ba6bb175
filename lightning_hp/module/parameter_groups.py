"""Parameter groups: a learning rate for each part of a model, and no weight decay on norms and biases."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

# BatchNorm2d, RMSNorm, GroupNorm1, BatchNormAct2d, and what inherits from one.
_NORM = re.compile(r"Norm(Act)?(\dd|\d)?$")


def parameter_groups(
    module: nn.Module, lr: float, lr_ratios: Mapping[str, float] | None = None, decay: bool = True
) -> list[dict[str, Any]]:
    """The parameters that are trained, for a torch optimizer.

    Args:
        module: The model. Parameters that do not require a gradient are left out.
        lr: The learning rate, > 0.
        lr_ratios: Parts of the model that learn at a multiple of it, by the path of the part: of several that hold a
            parameter, the longest path counts.
        decay: Keep weight decay off the parameters of normalisation layers, off biases, and off all that are a vector
            or one number.

    Returns:
        Groups with ``params``, ``lr``, a ``name`` for ``LearningRateMonitor``, and ``weight_decay`` = 0 where it is
        off. The optimizer's own weight decay holds for the others.

    Raises:
        ValueError: If a path names nothing, or nothing is left to train.

    Source: Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019, for the decay; leaving norms and
    biases out is common practice since He et al., *Bag of Tricks*, 2019, section 3.1.

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
    norms = {id(p) for layer in module.modules() if _is_norm(layer) for p in layer.parameters(recurse=False)}
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        path = max((path for path in ratios if _holds(path, name)), key=len, default="")
        is_free = decay and (id(parameter) in norms or parameter.ndim <= 1 or "bias" in name.rpartition(".")[2])
        title = (path or ("rest" if ratios else "all")) + (", no decay" if is_free else "")
        if title not in groups:
            groups[title] = {"params": [], "lr": lr * ratios.get(path, 1.0), "name": title}
            if is_free:
                groups[title]["weight_decay"] = 0.0
        groups[title]["params"].append(parameter)
    if not groups:
        raise ValueError("Expected parameters that require a gradient, but all are frozen.")
    return list(groups.values())


def check_paths(module: nn.Module, paths: Mapping[str, float]) -> None:
    """Raises ``ValueError`` for a path that holds no parameter of ``module``."""
    for path in paths:
        if not any(_holds(path, name) for name, _ in module.named_parameters()):
            children = ", ".join(
                name for name, child in module.named_children() if any(True for _ in child.parameters())
            )
            raise ValueError(
                f"Expected `lr_ratios` to name parts of the model, such as {children or 'a layer'}, but got {path!r}."
            )


def _holds(path: str, name: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _is_norm(layer: nn.Module) -> bool:
    return any(_NORM.search(base.__name__) for base in type(layer).__mro__)
