"""The numbers in optimizers and schedulers: where each stands, and which of them are learning rates.

Pure torch. A schedule is more than the ``lr`` of a group: schedulers keep base rates of their own, in lists, in the
groups and in the schedulers that they contain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)
from torch.optim.swa_utils import SWALR

#: A parameter group: the number of its optimizer and its own number there.
Key = tuple[int, int]


@dataclass(frozen=True)
class Slot:
    """One number somewhere in an optimizer or a scheduler.

    Args:
        path: Where it stands; the same in two objects that were built alike.
        name: The name under which it is kept: ``"lr"``, ``"base_lrs"``.
        container: The dict or list that holds it.
        key: Its key there.
        group: The parameter group that it belongs to, if to one.

    """

    path: tuple[str | int, ...]
    name: str
    container: Any
    key: Any
    group: Key | None

    def read(self) -> float:
        """The number."""
        return float(self.container[self.key])

    def write(self, value: float) -> None:
        """Writes the number; a tensor is filled in place, since optimizers and compiled code hold on to it.

        But for the tensor of an optimizer's defaults, which may be one that the user's module still holds.
        """
        if self.path[0] == "defaults" and isinstance(self.container[self.key], Tensor):
            self.container[self.key] = self.container[self.key].clone()
        write_number(self.container, self.key, value)


@dataclass(frozen=True)
class Configured:
    """What one call of ``configure_optimizers`` made.

    Args:
        optimizers: Its optimizers.
        schedulers: Its schedulers, those that are stepped; the ones inside them are found from there.

    """

    optimizers: Sequence[Optimizer]
    schedulers: Sequence[Any]

    def groups(self) -> Iterator[tuple[Key, dict[str, Any]]]:
        """The parameter groups."""
        for number, optimizer in enumerate(self.optimizers):
            for position, group in enumerate(optimizer.param_groups):
                yield (number, position), group

    def schedulers_of(self, number: int) -> list[Any]:
        """Every scheduler of an optimizer, with those inside others."""
        optimizer = self.optimizers[number]
        tops = [top for top in self.schedulers if getattr(top, "optimizer", None) is optimizer]
        return [scheduler for top in tops for _, scheduler in _walk(top)]

    def all_schedulers(self) -> list[Any]:
        """Every scheduler, with those inside others."""
        return [scheduler for top in self.schedulers for _, scheduler in _walk(top)]

    def base_rates(self) -> dict[Key, float]:
        """The learning rate that the schedule of each group is built on: its peak under a cycle, else its start."""
        return {key: float(_base_rate(self.schedulers_of(key[0]), key[1], group)) for key, group in self.groups()}

    def slots(self) -> Iterator[Slot]:
        """Every number: of the groups, of the optimizers' defaults and of the schedulers."""
        for key, group in self.groups():
            for name, value in group.items():
                if _is_number(value):
                    yield Slot(("optimizer", *key, name), name, group, name, key)
        for number, optimizer in enumerate(self.optimizers):
            for name, value in optimizer.defaults.items():
                if _is_number(value):
                    yield Slot(("defaults", number, name), name, optimizer.defaults, name, None)
        for number, top in enumerate(self.schedulers):
            owner = next((i for i, o in enumerate(self.optimizers) if o is getattr(top, "optimizer", None)), None)
            for way, scheduler in _walk(top):
                yield from self._slots_of(scheduler, ("scheduler", number, *way), owner)

    def _slots_of(self, scheduler: Any, way: tuple[str | int, ...], owner: int | None) -> Iterator[Slot]:
        num_groups = len(self.optimizers[owner].param_groups) if owner is not None else -1
        for name, value in vars(scheduler).items():
            if _is_number(value):
                yield Slot((*way, name), name, vars(scheduler), name, None)
            elif isinstance(value, list) and value and all(map(_is_number, value)):
                for position in range(len(value)):
                    group = (owner, position) if owner is not None and len(value) == num_groups else None
                    yield Slot((*way, name, position), name, value, position, group)

    def floor_parts(self) -> dict[Key, Callable[[], float]]:
        """The part of each group's present rate that comes from a floor or target, as a function of that floor."""
        return {
            key: next(_floor_parts(self.schedulers_of(key[0]), key[1], group), _nothing) for key, group in self.groups()
        }


def write_number(container: Any, key: Any, value: float) -> None:
    """Writes ``container[key]``, in place if it is a tensor."""
    if isinstance(container[key], Tensor):
        container[key].fill_(value)
    else:
        container[key] = value


def _base_rate(schedulers: Sequence[Any], position: int, group: dict[str, Any]) -> Any:
    if "max_lr" in group and any(isinstance(scheduler, OneCycleLR) for scheduler in schedulers):
        return group["max_lr"]
    for scheduler in schedulers:
        if isinstance(scheduler, CyclicLR) and position < len(scheduler.max_lrs):
            return scheduler.max_lrs[position]
    if any(not isinstance(scheduler, ReduceLROnPlateau) for scheduler in schedulers):
        return group.get("initial_lr", group["lr"])
    return group["lr"]


def _floor_parts(schedulers: Sequence[Any], position: int, group: dict[str, Any]) -> Iterator[Callable[[], float]]:
    """An annealed rate is ``base * (1 - share) + floor * share``: the last part, for the curve that the group is on."""
    for scheduler in schedulers:
        if isinstance(scheduler, SWALR):
            steps = max(scheduler._step_count - 1, 0 if scheduler.anneal_epochs else 1)
            anneal: Any = scheduler.anneal_func
            share = anneal(min(1.0, steps / max(1, scheduler.anneal_epochs)))
            if share > 0:
                yield partial(_part, group, "swa_lr", share)
        elif isinstance(scheduler, (CosineAnnealingLR, CosineAnnealingWarmRestarts)):
            if isinstance(scheduler, CosineAnnealingLR):
                phase = scheduler.last_epoch / scheduler.T_max
            else:
                phase = scheduler.T_cur / scheduler.T_i
            share = (1 - math.cos(math.pi * phase)) / 2
            expected = float(scheduler.base_lrs[position]) * (1 - share) + scheduler.eta_min * share
            if math.isclose(expected, float(group["lr"]), rel_tol=1e-6):
                yield partial(_part, vars(scheduler), "eta_min", share)


def _part(container: dict[str, Any], name: str, share: float) -> float:
    return float(container[name]) * share


def _nothing() -> float:
    return 0.0


def _walk(
    scheduler: Any, way: tuple[str | int, ...] = (), above: tuple[int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    yield way, scheduler
    above = (*above, id(scheduler))
    for name, value in vars(scheduler).items():
        inside: Iterable[Any] = value if isinstance(value, (list, tuple)) else [value]
        for position, child in enumerate(inside):
            if isinstance(child, LRScheduler) and id(child) not in above:
                yield from _walk(child, (*way, name, position), above)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and value.is_floating_point()
    return isinstance(value, Real) and not isinstance(value, bool)
