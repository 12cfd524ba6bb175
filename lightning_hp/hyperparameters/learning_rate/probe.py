"""Determines which learning rates follow an attribute of the module.

An attribute called ``lr`` is not always the learning rate. So ``configure_optimizers`` runs with two values of the
attribute. A number that changed in proportion follows it, a number that stayed is independent, and any other change is
refused later. Nothing of these runs is kept.

The same way shows whether a schedule can be rescaled: one copy of it is rescaled, another is built on the new rate, and
both are simulated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from lightning_hp.hyperparameters.attributes import NamedAttribute
from lightning_hp.hyperparameters.learning_rate.numbers import (
    ConfiguredOptimizers,
    GroupIndex,
    NumberPath,
    StoredNumber,
)
from lightning_hp.hyperparameters.learning_rate.rescale import (
    are_same_lrs,
    is_absolute_lr,
    rescale,
    scales_with_lr,
    simulate_lrs,
)
from lightning_hp.trainer import building_without_effects, num_parameter_hooks

if TYPE_CHECKING:
    import pytorch_lightning as pl

# Steps of a simulation before and after a schedule is rescaled: enough to be in the middle of a warm-up or a decay.
_STEPS_BEFORE, _STEPS_AFTER = 50, 200

_Name = TypeVar("_Name")


@dataclass(frozen=True)
class ProbeResult:
    """How the optimizers and schedulers of ``configure_optimizers`` depend on one attribute.

    Args:
        ratios: For each group that follows, its base rate divided by the attribute.
        independent: The groups that do not depend on it.
        not_proportional: For every other group, its base rates at the two values.
        follows: For each number in optimizers and schedulers, whether it follows; missing where this is unknown, since
            the number was zero or changed in another way.
        can_rescale: Whether a schedule that is rescaled midway equals the one that is built on the new value. ``False``
            where this was not tried.
        can_rebuild: Whether ``configure_optimizers`` may run again: it adds no hooks to parameters, which would then
            run twice.

    """

    ratios: dict[GroupIndex, float]
    independent: frozenset[GroupIndex]
    not_proportional: dict[GroupIndex, tuple[float, float]]
    follows: dict[NumberPath, bool]
    can_rescale: bool
    can_rebuild: bool


def probe_attribute(
    trainer: pl.Trainer, pl_module: pl.LightningModule, attribute: NamedAttribute, value: float, try_rescale: bool
) -> ProbeResult:
    """Runs ``configure_optimizers`` with two values of an attribute, and compares what it builds.

    Args:
        trainer: A Trainer inside ``fit``.
        pl_module: Its module.
        attribute: The attribute; unchanged afterwards.
        value: The first value, > 0; the second is half of it.
        try_rescale: Also determine ``can_rescale``, for which the schedulers are simulated. This is always done where
            ``configure_optimizers`` cannot run again.

    Returns:
        What follows the attribute.

    Note:
        Runs ``configure_optimizers`` twice, and twice more to simulate the schedulers. Nothing of these runs is kept.

    """
    half = value / 2
    original = [place.read() for place in attribute.places]

    def write(number: float) -> None:
        for place in attribute.places:
            place.write(number)

    with building_without_effects(trainer, pl_module) as build:
        try:
            num_hooks = num_parameter_hooks(pl_module)
            first = ConfiguredOptimizers(*build(lambda: write(value)))
            can_rebuild = num_parameter_hooks(pl_module) == num_hooks
            bases, numbers = first.base_lrs(), {number.path: number.read() for number in first.numbers()}
            second = ConfiguredOptimizers(*build(lambda: write(half)))
            new_bases, new_numbers = second.base_lrs(), {number.path: number.read() for number in second.numbers()}
            groups = _compare(bases, new_bases, value, half)
            follows = {
                path: is_proportional
                for path, is_proportional in _compare(numbers, new_numbers, value, half).items()
                if is_proportional is not None and numbers[path] != 0
            }
            ratios = {index: bases[index] / value for index, is_proportional in groups.items() if is_proportional}
            can_rescale = False
            if ratios and (try_rescale or not can_rebuild):
                moved = ConfiguredOptimizers(*build(lambda: write(value)))
                simulate_lrs(moved, _STEPS_BEFORE)
                rescale(moved, lambda number: follows.get(number.path, scales_with_lr(moved, number)), _half, bases)
                lrs = simulate_lrs(moved, _STEPS_AFTER)
                built = ConfiguredOptimizers(*build(lambda: write(half)))
                simulate_lrs(built, _STEPS_BEFORE)
                can_rescale = are_same_lrs(lrs, simulate_lrs(built, _STEPS_AFTER))
        finally:
            for place, held in zip(attribute.places, original, strict=True):
                place.write(held)
    return ProbeResult(
        ratios=ratios,
        independent=frozenset(index for index, is_proportional in groups.items() if is_proportional is False),
        not_proportional={
            index: (bases[index], new_bases.get(index, math.nan))
            for index, is_proportional in groups.items()
            if is_proportional is None
        },
        follows=follows,
        can_rescale=can_rescale,
        can_rebuild=can_rebuild,
    )


def can_rescale_without_home(trainer: pl.Trainer, pl_module: pl.LightningModule, midway: bool) -> bool:
    """Whether multiplying the known rates of a schedule gives the schedule of another rate; tried on copies.

    Before the training it does if nothing else determines the rates: if floors and targets are halved too, every rate
    is halved. Midway it does if halving the known rates then and at the start gives the same.

    Args:
        trainer: A Trainer inside ``fit``.
        pl_module: Its module.
        midway: Whether the training has begun.

    Returns:
        Whether it gives that schedule.

    Note:
        Runs ``configure_optimizers`` twice, and midway four times.

    """
    with building_without_effects(trainer, pl_module) as build:
        original = simulate_lrs(ConfiguredOptimizers(*build()), _STEPS_AFTER)
        halved = simulate_lrs(_halved(ConfiguredOptimizers(*build()), absolute_too=True), _STEPS_AFTER)
        if not are_same_lrs(original, halved, 0.5):
            return False
        if not midway:
            return True
        early = _halved(ConfiguredOptimizers(*build()), absolute_too=False)
        simulate_lrs(early, _STEPS_BEFORE)
        lrs = simulate_lrs(early, _STEPS_AFTER)
        late = ConfiguredOptimizers(*build())
        simulate_lrs(late, _STEPS_BEFORE)
        return are_same_lrs(lrs, simulate_lrs(_halved(late, absolute_too=False), _STEPS_AFTER))


def _halved(configured: ConfiguredOptimizers, absolute_too: bool) -> ConfiguredOptimizers:
    def follows(number: StoredNumber) -> bool:
        return scales_with_lr(configured, number) or (absolute_too and is_absolute_lr(number))

    rescale(configured, follows, _half, configured.base_lrs())
    return configured


def _half(rate: float) -> float:
    return rate / 2


def _compare(
    numbers: Mapping[_Name, float], new_numbers: Mapping[_Name, float], value: float, new_value: float
) -> dict[_Name, bool | None]:
    """Whether each number changed in proportion to the attribute; ``False`` if it stayed, ``None`` if neither."""
    verdicts: dict[_Name, bool | None] = {}
    for name, number in numbers.items():
        new = new_numbers.get(name, math.nan)
        if number == new or math.isclose(number, new, rel_tol=1e-9):
            verdicts[name] = False
        else:
            verdicts[name] = True if math.isclose(number / value, new / new_value, rel_tol=1e-6) else None
    return verdicts
