"""Moves a schedule to another learning rate in place, and checks that the result is the schedule of that rate.

Every learning rate in the optimizers and schedulers is multiplied by one factor. Floors and targets that the user has
given in absolute terms stay. The result has to equal the schedule that the user would have got by setting the new rate
at the start; where the rules of this file may not be enough for that, the schedule can be simulated and compared.

Pure torch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping

from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from lightning_hp.hyperparameters.learning_rate.numbers import (
    ConfiguredOptimizers,
    GroupIndex,
    StoredNumber,
    write_number,
)

# Numbers that torch's schedulers derive from the learning rate of the optimizer.
_SCALED = {"lr", "initial_lr", "base_lrs", "max_lrs", "_last_lr"}
_SCALED_BY_ONE_CYCLE = {"max_lr", "min_lr"}  # in a parameter group

# Numbers that they are given in absolute terms.
_ABSOLUTE = {"eta_min", "min_lrs", "default_min_lr", "swa_lr", "eps"}


def scales_with_lr(configured: ConfiguredOptimizers, number: StoredNumber) -> bool:
    """Whether a number is, by its name, a learning rate that changes in proportion to the one the user sets."""
    if number.path[0] == "optimizer" and number.name in _SCALED_BY_ONE_CYCLE:
        return number.group is not None and any(
            isinstance(scheduler, OneCycleLR) for scheduler in configured.schedulers_of(number.group[0])
        )
    return number.name in _SCALED


def is_absolute_lr(number: StoredNumber) -> bool:
    """Whether a number is, by its name, a floor or target of a scheduler in absolute terms."""
    return number.name in _ABSOLUTE and (number.path[0] == "scheduler" or number.name == "swa_lr")


def needs_simulation(configured: ConfiguredOptimizers, midway: bool) -> bool:
    """Whether :func:`rescale` may give a wrong schedule, so that it has to be simulated first.

    It is right for torch's own schedulers. Midway it may be wrong for a floor together with several schedulers.
    """
    for number in range(len(configured.optimizers)):
        schedulers = configured.schedulers_of(number)
        if any(not type(scheduler).__module__.startswith("torch.") for scheduler in schedulers):
            return True
        floors = [
            stored
            for stored in configured.numbers()
            if is_absolute_lr(stored) and stored.name != "eps" and stored.read() != 0
        ]
        if midway and floors and len(schedulers) > 1:
            return True
    return False


def rescale(
    configured: ConfiguredOptimizers,
    follows: Callable[[StoredNumber], bool],
    multiply: Callable[[float], float],
    base_lrs: Mapping[GroupIndex, float],
) -> None:
    """Writes the numbers that another learning rate would have led to at this moment of the schedule.

    Args:
        configured: Optimizers and schedulers; changed in place.
        follows: Tells which numbers to multiply.
        multiply: Multiplies a rate.
        base_lrs: The old rate that the schedule of each group is built on.

    """
    numbers = [number for number in configured.numbers() if follows(number)]
    # Read all numbers before the first is written: groups and nested schedulers may share lists and tensors. The
    # current rates are written after the floors, from which they are computed.
    current = {number.group: number.read() for number in numbers if number.group is not None and _is_current_lr(number)}
    last_lrs = [(number, number.read()) for number in numbers if number.name == "_last_lr"]
    floor_parts = configured.floor_parts()
    above_floor = {index: rate - floor_parts[index]() for index, rate in current.items()}
    others = [
        (number, multiply(number.read()))
        for number in numbers
        if number.name != "_last_lr" and not _is_current_lr(number)
    ]
    for number, value in others:
        number.write(value)
    new = {
        index: max(
            multiply(above_floor[index]) + floor_parts[index](),
            _plateau_floor(configured, index, current[index], base_lrs),
        )
        for index in current
    }
    for index, group in configured.groups():
        if index in new:
            write_number(group, "lr", new[index])
    for number, old in last_lrs:
        is_current = number.group in new and old == current[number.group]
        number.write(new[number.group] if is_current and number.group is not None else multiply(old))


def simulate_lrs(configured: ConfiguredOptimizers, num_steps: int) -> list[list[float]]:
    """Steps the schedulers, and returns the rates of all groups: now and after each step.

    Args:
        configured: Optimizers and schedulers that are discarded afterwards.
        num_steps: Number of steps.

    Returns:
        One list of rates per step; fewer for a schedule of a fixed length, and an empty list if a scheduler needs more
        arguments to be stepped.

    """
    lrs = [[float(group["lr"]) for _, group in configured.groups()]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that no optimizer steps
        for _ in range(num_steps):
            try:
                for scheduler in configured.schedulers:
                    scheduler.step(1.0) if isinstance(scheduler, ReduceLROnPlateau) else scheduler.step()
            except (ArithmeticError, LookupError, RuntimeError, ValueError):
                break
            except TypeError:
                return []
            lrs.append([float(group["lr"]) for _, group in configured.groups()])
    return lrs


def are_same_lrs(left: list[list[float]], right: list[list[float]], factor: float = 1.0) -> bool:
    """Whether ``left`` times ``factor`` equals ``right`` up to rounding; empty simulations are never equal."""
    if not left or len(left) != len(right):
        return False
    pairs = [(a * factor, b) for row, other in zip(left, right, strict=True) for a, b in zip(row, other, strict=True)]
    smallest = 1e-9 * max(abs(b) for _, b in pairs)
    return all(math.isclose(a, b, rel_tol=1e-6, abs_tol=smallest) for a, b in pairs)


def _is_current_lr(number: StoredNumber) -> bool:
    return number.path[0] == "optimizer" and number.name == "lr"


def _plateau_floor(
    configured: ConfiguredOptimizers, index: GroupIndex, current: float, base_lrs: Mapping[GroupIndex, float]
) -> float:
    """The ``min_lr`` of ReduceLROnPlateau, where it is the only scheduler and has reduced the rate."""
    schedulers = configured.schedulers_of(index[0])
    is_only = all(isinstance(scheduler, ReduceLROnPlateau) for scheduler in schedulers)
    if not is_only or math.isclose(current, base_lrs[index], rel_tol=1e-9):
        return -math.inf
    return max((float(scheduler.min_lrs[index[1]]) for scheduler in schedulers), default=-math.inf)
