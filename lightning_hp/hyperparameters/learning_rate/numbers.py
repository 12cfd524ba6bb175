"""Lists the numbers that optimizers and schedulers hold, and tells which of them is a group's learning rate.

Pure torch. A schedule is more than the ``lr`` of a group: schedulers keep base rates of their own, in lists, in the
groups, and in the schedulers that they contain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

#: A parameter group: the index of its optimizer, and its index in the optimizer.
GroupIndex = tuple[int, int]

#: Where a number is; equal for two optimizers or schedulers that were built in the same way.
NumberPath = tuple[str | int, ...]


@dataclass(frozen=True)
class StoredNumber:
    """One number in an optimizer or a scheduler.

    Args:
        path: Where it is.
        name: The name under which it is stored: ``"lr"``, ``"base_lrs"``.
        container: The dict or list that holds it.
        key: Its key in the container.
        group: The parameter group that it belongs to, if to a single one.

    """

    path: NumberPath
    name: str
    container: Any
    key: Any
    group: GroupIndex | None

    def read(self) -> float:
        """Returns the number."""
        return float(self.container[self.key])

    def write(self, value: float) -> None:
        """Replaces the number; a tensor is filled in place, since optimizers and compiled code keep references to it.

        A tensor in the defaults of an optimizer is replaced, since the user's module may hold the same one.
        """
        if self.path[0] == "defaults" and isinstance(self.container[self.key], Tensor):
            self.container[self.key] = self.container[self.key].clone()
        write_number(self.container, self.key, value)


@dataclass(frozen=True)
class ConfiguredOptimizers:
    """What one call of ``configure_optimizers`` returns.

    Args:
        optimizers: Its optimizers.
        schedulers: Its schedulers; those inside a ``SequentialLR`` or ``ChainedScheduler`` are not listed.

    """

    optimizers: Sequence[Optimizer]
    schedulers: Sequence[Any]

    def groups(self) -> Iterator[tuple[GroupIndex, dict[str, Any]]]:
        """Yields every parameter group with its index."""
        for number, optimizer in enumerate(self.optimizers):
            for position, group in enumerate(optimizer.param_groups):
                yield (number, position), group

    def schedulers_of(self, number: int) -> list[Any]:
        """Every scheduler of an optimizer, including those inside others."""
        optimizer = self.optimizers[number]
        outer = [scheduler for scheduler in self.schedulers if getattr(scheduler, "optimizer", None) is optimizer]
        return [nested for scheduler in outer for _, nested in _with_nested(scheduler)]

    def all_schedulers(self) -> list[Any]:
        """Every scheduler, including those inside others."""
        return [nested for scheduler in self.schedulers for _, nested in _with_nested(scheduler)]

    def base_lrs(self) -> dict[GroupIndex, float]:
        """The learning rate that the schedule of each group is built on: the peak of a cycle, else the initial rate."""
        return {index: float(_base_lr(self.schedulers_of(index[0]), index[1], group)) for index, group in self.groups()}

    def numbers(self) -> Iterator[StoredNumber]:
        """Yields every number of the groups, of the defaults of the optimizers, and of the schedulers."""
        for index, group in self.groups():
            for name, value in group.items():
                if _is_number(value):
                    yield StoredNumber(("optimizer", *index, name), name, group, name, index)
        for number, optimizer in enumerate(self.optimizers):
            for name, value in optimizer.defaults.items():
                if _is_number(value):
                    yield StoredNumber(("defaults", number, name), name, optimizer.defaults, name, None)
        for number, outer in enumerate(self.schedulers):
            owner = next((i for i, o in enumerate(self.optimizers) if o is getattr(outer, "optimizer", None)), None)
            for path, scheduler in _with_nested(outer):
                yield from self._numbers_of(scheduler, ("scheduler", number, *path), owner)

    def _numbers_of(self, scheduler: Any, path: NumberPath, optimizer: int | None) -> Iterator[StoredNumber]:
        num_groups = len(self.optimizers[optimizer].param_groups) if optimizer is not None else -1
        for name, value in vars(scheduler).items():
            if _is_number(value):
                yield StoredNumber((*path, name), name, vars(scheduler), name, None)
            elif isinstance(value, list) and value and all(map(_is_number, value)):
                for position in range(len(value)):
                    group = (optimizer, position) if optimizer is not None and len(value) == num_groups else None
                    yield StoredNumber((*path, name, position), name, value, position, group)

    def floor_parts(self) -> dict[GroupIndex, Callable[[], float]]:
        """For each group, a function that returns the part of its current rate that comes from a floor or target.

        The function reads the floor when it is called.
        """
        return {
            index: next(_floor_parts(self.schedulers_of(index[0]), index[1], group), _no_floor)
            for index, group in self.groups()
        }


def write_number(container: Any, key: Any, value: float) -> None:
    """Writes ``container[key]``, in place if it is a tensor."""
    if isinstance(container[key], Tensor):
        container[key].fill_(value)
    else:
        container[key] = value


def momentum_of(group: Mapping[str, Any]) -> float:
    """The momentum of a parameter group, or the first beta of an optimizer such as Adam; NaN if it has none."""
    value = group["betas"][0] if "betas" in group else group.get("momentum", math.nan)
    return float(value)


def write_momentum(group: dict[str, Any], value: float) -> None:
    """Writes what :func:`momentum_of` reads, as ``OneCycleLR`` does."""
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


def _base_lr(schedulers: Sequence[Any], position: int, group: dict[str, Any]) -> Any:
    if "max_lr" in group and any(isinstance(scheduler, OneCycleLR) for scheduler in schedulers):
        return group["max_lr"]
    for scheduler in schedulers:
        if isinstance(scheduler, CyclicLR) and position < len(scheduler.max_lrs):
            return scheduler.max_lrs[position]
    if any(not isinstance(scheduler, ReduceLROnPlateau) for scheduler in schedulers):
        return group.get("initial_lr", group["lr"])
    return group["lr"]


def _floor_parts(schedulers: Sequence[Any], position: int, group: dict[str, Any]) -> Iterator[Callable[[], float]]:
    """An annealed rate is ``base * (1 - share) + floor * share``. Yields the second part where it explains the rate."""
    for scheduler in schedulers:
        if isinstance(scheduler, SWALR):
            steps = max(scheduler._step_count - 1, 0 if scheduler.anneal_epochs else 1)
            anneal: Any = scheduler.anneal_func
            share = anneal(min(1.0, steps / max(1, scheduler.anneal_epochs)))
            if share > 0:
                yield partial(_product, group, "swa_lr", share)
        elif isinstance(scheduler, (CosineAnnealingLR, CosineAnnealingWarmRestarts)):
            if isinstance(scheduler, CosineAnnealingLR):
                phase = scheduler.last_epoch / scheduler.T_max
            else:
                phase = scheduler.T_cur / scheduler.T_i
            share = (1 - math.cos(math.pi * phase)) / 2
            expected = float(scheduler.base_lrs[position]) * (1 - share) + scheduler.eta_min * share
            if math.isclose(expected, float(group["lr"]), rel_tol=1e-6):
                yield partial(_product, vars(scheduler), "eta_min", share)


def _product(container: dict[str, Any], name: str, share: float) -> float:
    return float(container[name]) * share


def _no_floor() -> float:
    return 0.0


def _with_nested(
    scheduler: Any, path: NumberPath = (), outer: tuple[int, ...] = ()
) -> Iterator[tuple[NumberPath, Any]]:
    """Yields a scheduler and every scheduler inside it, each with its path."""
    yield path, scheduler
    outer = (*outer, id(scheduler))
    for name, value in vars(scheduler).items():
        values: Iterable[Any] = value if isinstance(value, (list, tuple)) else [value]
        for position, nested in enumerate(values):
            if isinstance(nested, LRScheduler) and id(nested) not in outer:
                yield from _with_nested(nested, (*path, name, position), outer)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and value.is_floating_point()
    return isinstance(value, Real) and not isinstance(value, bool)
