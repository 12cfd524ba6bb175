"""From which epoch each part of a backbone is trained. What is frozen follows from the epoch alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn import Parameter

from lightning_hp.functional.norm_layers import is_norm
from lightning_hp.nn.freezing.blocks import stages_of

#: The epoch of what is never trained.
NEVER = math.inf


@dataclass(frozen=True)
class FreezingSchedule:
    """The first epoch in which each parameter and each module of a backbone is trained.

    A module is trained (in training mode) when all parameters in it are; one without parameters, a dropout for
    instance, together with the sibling before it. What belongs to two stages waits for the later one: as long as a
    stage is frozen, nothing in it changes. Parameters are told apart by identity, never by their values.

    Args:
        parameters: First epoch of each parameter.
        modules: First epoch of each module.

    """

    parameters: Mapping[Parameter, float]
    modules: Mapping[nn.Module, float]

    @classmethod
    def of(cls, backbone: nn.Module, epochs: Mapping[Parameter, float], train_norm: bool) -> FreezingSchedule:
        """Completes the epochs of parameters by those of modules; with ``train_norm`` norm layers are always trained.

        Example:
            >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2))
            >>> schedule = FreezingSchedule.of(net, by_stages(net, 1, 2, 3), train_norm=False)
            >>> [schedule.modules[module] for module in (net, *net)]
            [4, 4, 4, 1]

        """
        own: dict[nn.Module, float] = {}
        parameters = dict(epochs)
        for module in backbone.modules() if train_norm else ():
            if is_norm(module):
                own[module] = 0
                parameters.update(dict.fromkeys(module.parameters(recurse=False), 0))

        modules: dict[nn.Module, float] = {}

        def visit(module: nn.Module, neighbour: float) -> None:
            epoch = own.get(module, max((parameters[p] for p in module.parameters()), default=neighbour))
            modules[module] = max(epoch, modules.get(module, 0))
            for child in module.children():
                visit(child, epoch)
                if any(True for _ in child.parameters()) and child not in own:
                    epoch = modules[child]

        visit(backbone, NEVER)
        return cls(parameters, modules)

    @property
    def changes(self) -> list[int]:
        """The epochs > 0 in which something begins to be trained, rising."""
        return sorted({int(epoch) for epoch in self.parameters.values() if 0 < epoch < NEVER})

    def frozen(self, epoch: float) -> tuple[list[Parameter], list[nn.Module]]:
        """The parameters and the modules that are not trained in an epoch."""
        parameters = [parameter for parameter, first in self.parameters.items() if first > epoch]
        return parameters, [module for module, first in self.modules.items() if first > epoch]


def by_stages(backbone: nn.Module, first: float, num_stages: int, epochs_per_stage: int) -> dict[Parameter, float]:
    """First epoch of each parameter: the stage next to the head in epoch ``first``, then one stage after the other.

    Raises:
        ValueError: If the backbone cannot be cut into so many stages.

    """
    epochs: dict[Parameter, float] = {}
    for number, stage in enumerate(stages_of(backbone, num_stages)):
        for _, parameters in stage:
            # From the top down: what a lower stage shares waits for it.
            epochs.update(dict.fromkeys(parameters, first + number * epochs_per_stage))
    return epochs


def by_names(backbone: nn.Module, plan: Mapping[int, str | Sequence[str]]) -> dict[Parameter, float]:
    """First epoch of each parameter by names: of parameters, of modules, or patterns with ``*``.

    A name counts from the backbone, or from the model inside if it is wrapped (``layer4`` for ``model.layer4``). A
    parameter is trained from the first epoch that names it; one that no epoch names, never.

    Args:
        backbone: A module with parameters.
        plan: For each epoch the names of what begins to be trained.

    Raises:
        ValueError: If a name is the name of nothing.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> list(by_names(net, {3: "1", 5: "*.weight"}).values())
        [5, inf, 3, 3]

    """
    wrapping = _wrapping(backbone)
    patterns_of = {epoch: [names] if isinstance(names, str) else [*names] for epoch, names in plan.items()}
    epochs: dict[Parameter, float] = {}
    used = set()
    for name, parameter in backbone.named_parameters(remove_duplicate=False):
        names = (name, name.removeprefix(wrapping))
        first = NEVER
        for epoch, patterns in sorted(patterns_of.items()):
            matching = {pattern for pattern in patterns if any(_is_in(own, pattern) for own in names)}
            used |= matching
            first = min(first, epoch) if matching else first
        epochs[parameter] = max(first, epochs.get(parameter, 0))
    for patterns in patterns_of.values():
        for pattern in patterns:
            if pattern not in used:
                inner = backbone.get_submodule(wrapping.rstrip("."))
                there = [name for name, child in inner.named_children() if any(True for _ in child.parameters())]
                raise ValueError(f"Expected names inside the backbone ({', '.join(there)}), but got {pattern!r}.")
    return epochs


def _is_in(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)


def _wrapping(module: nn.Module) -> str:
    """The path, with its dot, to the model inside modules that hold nothing but it."""
    path = ""
    while True:
        children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
        if len(children) != 1 or any(True for _ in module.parameters(recurse=False)):
            return path
        if not any(True for _ in children[0][1].children()):
            return path
        path, module = f"{path}{children[0][0]}.", children[0][1]
