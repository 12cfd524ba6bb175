"""What counts batches or optimizer steps over the whole training, and acts less often when they become fewer."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_hp.hyperparameters import BatchSize
from lightning_hp.hyperparameters.learning_rate.simulation import Array, rates_of_one
from lightning_hp.rehearsal import Rehearsal
from lightning_hp.trainer import building_without_effects, misconfiguration

# Where torch's schedulers and those of others keep how long they are. Other numbers (a patience) are no lengths.
_LENGTHS = {
    "total_steps",
    "T_max",
    "total_iters",
    "max_iters",
    "t_initial",
    "T_0",
    "first_cycle_steps",
    "num_training_steps",
}

# Shorter trainings have a length that other numbers may equal by chance.
_SHORTEST = 10

# A schedule follows if its rates, as shares of the highest, differ by less on average: lengths in steps are rounded.
_FOLLOWS = 0.05


@dataclass(frozen=True)
class StepCount:
    """Something that acts after every so many batches or optimizer steps of a training.

    Args:
        name: What it is, for a message.
        interval: The number after which it acts, >= 1.
        in_batches: Whether batches are counted; otherwise optimizer steps.

    """

    name: str
    interval: int
    in_batches: bool


def step_counts(trainer: Any) -> tuple[StepCount, ...]:
    """The validation and the checkpoints of a Trainer that count across epochs."""
    counts = []
    interval = trainer.val_check_interval
    if trainer.check_val_every_n_epoch is None and isinstance(interval, int) and trainer.limit_val_batches > 0:
        counts.append(StepCount(f"validation with val_check_interval={interval}", interval, in_batches=True))
    for callback in trainer.callbacks:
        every = getattr(callback, "_every_n_train_steps", None)  # of ModelCheckpoint
        if isinstance(every, int) and every >= 1:
            name = f"{callback.__class__.__name__} with every_n_train_steps={every}"
            counts.append(StepCount(name, every, in_batches=False))
    return tuple(counts)


def fixed_schedules(rehearsal: Rehearsal, batch_size: BatchSize) -> tuple[str, ...]:
    """The schedules that count optimizer steps and whose rates do not follow the number of steps.

    The schedules are built and simulated at the present batch size and at twice as much, which gives the training half
    as many steps:

        does not follow = same rate at each step, and not a constant one
                          or another rate at the same progress, from 0 to 1

    Args:
        rehearsal: An open rehearsal; its next step needs a ``restart``.
        batch_size: Builds the loaders.

    Returns:
        Their class names.

    Raises:
        MisconfigurationException: If such a schedule is as long as the training is now: with another batch size the
            training would end in the middle of it, or go on after its end.

    Note:
        Runs ``configure_optimizers`` once where schedules count steps, and three times for each of these. Where a
        schedule cannot be simulated, the lengths that it keeps are compared.

    """
    trainer = rehearsal.trainer
    positions = [i for i, config in enumerate(trainer.strategy.lr_scheduler_configs) if config.interval == "step"]
    steps = rehearsal.planned_steps
    if not positions or steps is None:
        return ()
    before = [lengths_of(trainer.strategy.lr_scheduler_configs[i].scheduler) for i in positions]
    rates_before = [_rates(rehearsal, i, steps) for i in positions]
    rehearsal.restart(lambda: batch_size.loaders(2 * batch_size.value))
    steps_after = rehearsal.planned_steps or steps
    with building_without_effects(trainer, trainer.lightning_module) as build:
        schedulers = build().schedulers
        after = [lengths_of(schedulers[i]) for i in positions]
        names = [type(schedulers[i]).__name__ for i in positions]
    for name, old, new in zip(names, before, after, strict=True):
        if steps_after != steps >= _SHORTEST and steps in old & new and steps_after not in new:
            step = batch_size.value * trainer.accumulate_grad_batches * trainer.world_size
            raise misconfiguration(
                trainer,
                f"Expected a schedule whose length follows the batch size, but {name} has {steps} steps at any, the"
                " length of the training at the present one. Compute it in `configure_optimizers` from"
                f" `self.trainer.estimated_stepping_batches`, or keep the steps with `effective_batch_size={step}`.",
            )
    fixed = []
    for number, i in enumerate(positions):
        rates = rates_before[number]
        same_steps, same_progress = _rates(rehearsal, i, steps), _rates(rehearsal, i, steps_after)
        if rates is None or same_steps is None or same_progress is None:
            keeps = bool(before[number]) and before[number] == after[number]
        else:
            keeps = not _is_constant(rates) and (
                _are_equal(rates, same_steps) or not _are_alike(rates, same_progress, steps_after)
            )
        if keeps:
            fixed.append(names[number])
    return tuple(dict.fromkeys(fixed))


def _rates(rehearsal: Rehearsal, position: int, steps: int) -> Array | None:
    """The rates of a schedule as it is built now, over a number of steps."""
    trainer = rehearsal.trainer
    return rates_of_one(trainer, trainer.lightning_module, position, steps, rehearsal.steps_per_epoch or steps)


def _is_constant(rates: Array) -> bool:
    return bool(np.allclose(rates, rates[0], rtol=1e-6, atol=0))


def _are_equal(rates: Array, others: Array) -> bool:
    return rates.shape == others.shape and bool(np.allclose(rates, others, rtol=1e-6, atol=1e-12))


def _are_alike(rates: Array, others: Array, num_steps: int) -> bool:
    """Whether two schedules have about the same rates at the same progress, as shares of their highest."""
    if rates.shape[1] != others.shape[1]:
        return False
    progress = np.linspace(0, 1, 1000, endpoint=False)
    shapes = [(one / np.maximum(one.max(axis=0), 1e-300))[(progress * len(one)).astype(int)] for one in (rates, others)]
    return bool(np.abs(shapes[0] - shapes[1]).mean(axis=0).max() <= max(_FOLLOWS, 4 / num_steps))


def lengths_of(scheduler: Any) -> set[int]:
    """The numbers of steps after which a schedule, or a part of it, ends."""
    parts = getattr(scheduler, "_schedulers", None)
    if parts:
        lengths = set[int]().union(*map(lengths_of, parts))
        milestones = getattr(scheduler, "_milestones", None)  # of SequentialLR: the last part starts there
        return lengths | {milestones[-1] + length for length in lengths_of(parts[-1])} if milestones else lengths
    functions = getattr(scheduler, "lr_lambdas", ())
    numbers = {number for function in functions for number in _numbers_in(function)}
    return numbers | {value for name, value in vars(scheduler).items() if name in _LENGTHS and _is_int(value)}


def _numbers_in(function: Any) -> Iterator[int]:
    """The integers that a function keeps: constants, arguments that are bound, enclosed variables, attributes."""
    values: list[Any] = [*vars(function).values()] if hasattr(function, "__dict__") else []
    if isinstance(function, functools.partial):
        values += [*function.args, *function.keywords.values()]
    values += [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    values += getattr(getattr(function, "__code__", None), "co_consts", ())
    yield from filter(_is_int, values)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
