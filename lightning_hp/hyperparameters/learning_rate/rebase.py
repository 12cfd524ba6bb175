"""Rebase a schedule that exists: multiply every learning rate in it, leave the floors and targets that were typed.

Pure torch. The measure of what is right is the schedule that the user would have got by typing another rate.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping

from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from lightning_hp.hyperparameters.learning_rate.numbers import Configured, Key, Slot, write_number

# What torch's schedulers derive from the rate of the optimizer, and what they are told in absolute terms.
_RATES = {"lr", "initial_lr", "base_lrs", "max_lrs", "_last_lr"}
_CYCLE_RATES = {"max_lr", "min_lr"}  # of a group under OneCycleLR
_ABSOLUTE = {"eta_min", "min_lrs", "default_min_lr", "swa_lr", "eps"}


def is_rate(configured: Configured, slot: Slot) -> bool:
    """Whether a number is a learning rate by its name, which follows when the user types another."""
    if slot.path[0] == "optimizer" and slot.name in _CYCLE_RATES:
        return slot.group is not None and any(
            isinstance(scheduler, OneCycleLR) for scheduler in configured.schedulers_of(slot.group[0])
        )
    return slot.name in _RATES


def is_absolute(slot: Slot) -> bool:
    """Whether a number of a scheduler is a floor or target in absolute terms."""
    return slot.name in _ABSOLUTE and (slot.path[0] == "scheduler" or slot.name == "swa_lr")


def needs_trial(configured: Configured, midway: bool) -> bool:
    """Whether the rules of :func:`scale` may not be enough for a schedule, so that it has to be tried out.

    They are enough for torch's own schedulers, but midway not for a floor that several of them have acted on.
    """
    for number in range(len(configured.optimizers)):
        schedulers = configured.schedulers_of(number)
        if any(not type(scheduler).__module__.startswith("torch.") for scheduler in schedulers):
            return True
        floors = [slot for slot in configured.slots() if is_absolute(slot) and slot.name != "eps" and slot.read() != 0]
        if midway and floors and len(schedulers) > 1:
            return True
    return False


def scale(
    configured: Configured,
    follows: Callable[[Slot], bool],
    factor: Callable[[float], float],
    base_rates: Mapping[Key, float],
) -> None:
    """Writes what another learning rate would have led to at this moment of the schedule.

    Args:
        configured: Optimizers and schedulers; changed in place.
        follows: Which numbers are multiplied.
        factor: Multiplies a rate.
        base_rates: The rate that each group began with, on the old scale.

    """
    slots = [slot for slot in configured.slots() if follows(slot)]
    # All are read before any is written: lists and tensors may be shared, between groups or by a scheduler inside
    # another. The present rates come last, since what they approach has to be known by then.
    present = {slot.group: slot.read() for slot in slots if slot.group is not None and _is_present_rate(slot)}
    records = [(slot, slot.read()) for slot in slots if slot.name == "_last_lr"]
    parts = configured.floor_parts()
    above = {key: rate - parts[key]() for key, rate in present.items()}
    others = [(slot, factor(slot.read())) for slot in slots if slot.name != "_last_lr" and not _is_present_rate(slot)]
    for slot, value in others:
        slot.write(value)
    rates = {
        key: max(factor(above[key]) + parts[key](), _plateau_floor(configured, key, present[key], base_rates))
        for key in present
    }
    for key, group in configured.groups():
        if key in rates:
            write_number(group, "lr", rates[key])
    for slot, old in records:
        is_current = slot.group in rates and old == present[slot.group]
        slot.write(rates[slot.group] if is_current and slot.group is not None else factor(old))


def trajectory(configured: Configured, num_steps: int) -> list[list[float]]:
    """The rates of all groups now and over the next steps; steps the schedulers, so only for objects to throw away.

    Ends early with a schedule of fixed length; empty if a scheduler cannot be stepped on its own.
    """
    rates = [[float(group["lr"]) for _, group in configured.groups()]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no optimizer steps in between, and torch remarks on it
        for _ in range(num_steps):
            try:
                for scheduler in configured.schedulers:
                    scheduler.step(1.0) if isinstance(scheduler, ReduceLROnPlateau) else scheduler.step()
            except (ArithmeticError, LookupError, RuntimeError, ValueError):
                break
            except TypeError:
                return []
            rates.append([float(group["lr"]) for _, group in configured.groups()])
    return rates


def is_same_trajectory(left: list[list[float]], right: list[list[float]], factor: float = 1.0) -> bool:
    """Whether ``left`` times ``factor`` is ``right``, up to rounding; two that could not be followed are not."""
    if not left or len(left) != len(right):
        return False
    pairs = [(a * factor, b) for row, other in zip(left, right, strict=True) for a, b in zip(row, other, strict=True)]
    smallest = 1e-9 * max(abs(b) for _, b in pairs)
    return all(math.isclose(a, b, rel_tol=1e-6, abs_tol=smallest) for a, b in pairs)


def _is_present_rate(slot: Slot) -> bool:
    return slot.path[0] == "optimizer" and slot.name == "lr"


def _plateau_floor(configured: Configured, key: Key, rate: float, base_rates: Mapping[Key, float]) -> float:
    """Where ReduceLROnPlateau, and it alone, has reduced a rate, it would have stopped at its ``min_lr``."""
    schedulers = configured.schedulers_of(key[0])
    alone = all(isinstance(scheduler, ReduceLROnPlateau) for scheduler in schedulers)
    if not alone or math.isclose(rate, base_rates[key], rel_tol=1e-9):
        return -math.inf
    return max((float(scheduler.min_lrs[key[1]]) for scheduler in schedulers), default=-math.inf)
