"""From which epoch each part of a backbone is trained. The epoch alone determines what is frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn import Parameter

from lightning_hp.functional.norm_layers import norm_layers
from lightning_hp.nn.freezing.blocks import children_with_parameters, stages_of

#: The first epoch of a parameter that is never trained.
NEVER = math.inf


@dataclass(frozen=True)
class FreezingSchedule:
    """The first epoch in which each parameter and each module of a backbone is trained.

    A module is trained (in training mode) from the epoch in which all its parameters are. A module without parameters,
    such as a dropout, is trained together with the sibling before it. A parameter that two stages share is trained from
    the later epoch: while a stage is frozen, nothing in it changes. Parameters are compared by identity, never by their
    values.

    Args:
        parameters: First epoch of each parameter.
        modules: First epoch of each module.

    """

    parameters: Mapping[Parameter, float]
    modules: Mapping[nn.Module, float]

    @classmethod
    def of(cls, backbone: nn.Module, epochs: Mapping[Parameter, float], train_norm: bool) -> FreezingSchedule:
        """Derives the epochs of the modules from those of the parameters.

        Args:
            backbone: The module that is frozen.
            epochs: First epoch of each of its parameters.
            train_norm: Whether normalisation layers are trained from epoch 0.

        Returns:
            The schedule.

        Example:
            >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2))
            >>> schedule = FreezingSchedule.of(net, epochs_by_stages(net, 1, 2, 3), train_norm=False)
            >>> [schedule.modules[module] for module in (net, *net)]
            [4, 4, 4, 1]

        """
        norms = {layer for _, layer in norm_layers(backbone)} if train_norm else set()
        parameters = {**epochs, **{p: 0 for layer in norms for p in layer.parameters(recurse=False)}}
        modules: dict[nn.Module, float] = {}

        def visit(module: nn.Module, epoch_before: float) -> None:
            own_epochs = [parameters[parameter] for parameter in module.parameters()]
            epoch = 0 if module in norms else max(own_epochs, default=epoch_before)
            modules[module] = max(epoch, modules.get(module, 0))
            with_parameters = set(children_with_parameters(module).values())
            for child in module.children():
                visit(child, epoch)
                if child not in norms and child in with_parameters:
                    epoch = modules[child]

        visit(backbone, NEVER)
        return cls(parameters, modules)

    @property
    def unfreezing_epochs(self) -> list[int]:
        """The epochs > 0 from which further parameters are trained, in ascending order."""
        return sorted({int(epoch) for epoch in self.parameters.values() if 0 < epoch < NEVER})

    def frozen(self, epoch: float) -> tuple[list[Parameter], list[nn.Module]]:
        """The parameters and the modules that are not trained in an epoch."""
        parameters = [parameter for parameter, first in self.parameters.items() if first > epoch]
        return parameters, [module for module, first in self.modules.items() if first > epoch]


def epochs_by_stages(
    backbone: nn.Module, first_epoch: float, num_stages: int, epochs_per_stage: int
) -> dict[Parameter, float]:
    """First epoch of each parameter if the backbone is unfrozen stage by stage, from the head down.

    Args:
        backbone: A module with parameters.
        first_epoch: The epoch from which the stage next to the head is trained.
        num_stages: Number of stages.
        epochs_per_stage: Epochs from one stage to the next lower one.

    Returns:
        The epoch of each parameter; a parameter of several stages has that of the lowest one.

    Raises:
        ValueError: If the backbone has fewer blocks than stages.

    """
    epochs: dict[Parameter, float] = {}
    for number, stage in enumerate(stages_of(backbone, num_stages)):
        for _, parameters in stage:
            epochs.update(dict.fromkeys(parameters, first_epoch + number * epochs_per_stage))
    return epochs


def epochs_by_names(backbone: nn.Module, plan: Mapping[int, str | Sequence[str]]) -> dict[Parameter, float]:
    """First epoch of each parameter by names of parameters, names of modules, or patterns with ``*``.

    A name is relative to the backbone, or to the model inside it if the backbone only wraps one (``layer4`` for
    ``model.layer4``). A parameter is trained from the epoch that names it, and never if no epoch does. ``"*"`` alone
    names all parameters that no other name does.

    Args:
        backbone: A module with parameters.
        plan: For each epoch, the names of the parts that are trained from then on.

    Returns:
        The epoch of each parameter; `NEVER` for those without a name in the plan.

    Raises:
        ValueError: If a name matches no parameter, or two epochs name the same one.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> list(epochs_by_names(net, {3: "1", 5: "*.weight", 7: "*"}).values())
        Traceback (most recent call last):
        ...
        ValueError: Expected each parameter at one epoch, but '1.weight' is in '1' at 3 and in '*.weight' at 5.
        >>> list(epochs_by_names(net, {3: "1", 5: "0.weight", 7: "*"}).values())
        [5, 7, 3, 3]

    """
    named: dict[str, tuple[int, str]] = {}
    rest: float = NEVER
    for epoch, names in sorted(plan.items()):
        for pattern in [names] if isinstance(names, str) else names:
            if pattern == "*":
                rest = min(rest, epoch)
                continue
            for name in names_matching(backbone, pattern):
                first, other = named.setdefault(name, (epoch, pattern))
                if first != epoch:
                    raise ValueError(
                        f"Expected each parameter at one epoch, but {name!r} is in {other!r} at {first} and in "
                        f"{pattern!r} at {epoch}."
                    )
    epochs: dict[Parameter, float] = {}
    for name, parameter in backbone.named_parameters(remove_duplicate=False):
        epoch_of_name = named[name][0] if name in named else rest
        epochs[parameter] = max(epoch_of_name, epochs.get(parameter, 0))
    return epochs


def names_matching(backbone: nn.Module, pattern: str) -> list[str]:
    """The names of the parameters that a name or pattern, as in `epochs_by_names`, stands for.

    Args:
        backbone: A module with parameters.
        pattern: The name of a parameter or a module, or a pattern with ``*``.

    Returns:
        The names of all these parameters in the backbone.

    Raises:
        ValueError: If there are none.

    """
    prefix = _path_of_wrapped_model(backbone)
    found = [
        name
        for name, _ in backbone.named_parameters(remove_duplicate=False)
        if _matches(name, pattern) or _matches(name.removeprefix(prefix), pattern)
    ]
    if not found:
        parts = ", ".join(children_with_parameters(backbone.get_submodule(prefix.rstrip("."))))
        raise ValueError(f"Expected names inside the backbone ({parts}), but got {pattern!r}.")
    return found


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)


def _path_of_wrapped_model(module: nn.Module) -> str:
    """The path, with a final dot, to the model inside modules that hold nothing else; empty if there is none."""
    path = ""
    while True:
        children = list(children_with_parameters(module).items())
        if len(children) != 1 or any(True for _ in module.parameters(recurse=False)):
            return path
        if not any(True for _ in children[0][1].children()):
            return path
        path, module = f"{path}{children[0][0]}.", children[0][1]
