"""Finds a learning rate in a running Trainer: train over rising learning rates, and read the curve of the losses.

The range test of Smith (2017), repeated, with a second, finer sweep over the part where the loss falls:

    one sweep over all learning rates, from the start of the training
    where its curve shows too little, more sweeps, each from the same start over other batches; the median is read
    several sweeps of half as many steps over the part where the loss falls
    the rule reads the median of these
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from lightning_hp.functional.learning_rate.range_test import has_exploded, lr_range
from lightning_hp.functional.learning_rate.suggestion import falling_part, suggest_lr
from lightning_hp.hyperparameters import LearningRate, Schedule
from lightning_hp.rehearsal import Rehearsal
from lightning_hp.reporting import progress_bar
from lightning_hp.results import LearningRateResult

if TYPE_CHECKING:
    import pytorch_lightning as pl

#: How the curve is read; see :class:`~lightning_hp.LRFinder`.
Rule = Literal["auto", "fall", "one_cycle", "steepest", "valley", "slide", "minimum", "half"]

#: Fewer points are too few for a curve.
MIN_STEPS = 10

# Losses are read from the device once in this number of steps, so that steps are not synchronized. A sweep whose loss
# explodes therefore runs a few steps too many.
_READ_INTERVAL = 8

# What is simulated of a training without a limit: the smaller of both.
_UNLIMITED_EPOCHS, _UNLIMITED_STEPS = 100, 10_000


@dataclass(frozen=True)
class RangeTestSettings:
    """The arguments of :class:`~lightning_hp.LRFinder` that decide the learning rate; see there.

    Attributes:
        lrs: Learning rates of the sweep over the whole range, in ascending order.
        early_stop_threshold: Ends a sweep once its loss stays above this multiple of the initial loss, or ``None``.
        num_repeats: Sweeps whose median is read.
        rule: How the curve is read.
        zoom: Whether there is a second, finer sweep over the part where the loss falls.

    """

    lrs: tuple[float, ...]
    early_stop_threshold: float | None
    num_repeats: int
    rule: Rule
    zoom: bool


def find_learning_rate(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    learning_rate: LearningRate,
    settings: RangeTestSettings,
    hooks: Sequence[str],
) -> LearningRateResult:
    """Finds the learning rate of a training; sets nothing.

    Args:
        trainer: A Trainer inside ``fit``, before a batch.
        pl_module: Its module.
        learning_rate: Where the learning rate is kept.
        settings: The arguments of the callback.
        hooks: The module's hooks that ``fit`` has not called yet.

    Returns:
        The result; its ``suggestion`` is ``None`` if the curve shows no learning.

    Raises:
        MisconfigurationException: If the training cannot be rehearsed.

    """
    rule = settings.rule
    if rule == "auto":
        rule = "one_cycle" if learning_rate.is_one_cycle else "fall"
    with (
        progress_bar(trainer, "Finding the learning rate", "steps") as on_step,
        Rehearsal(trainer, pl_module, hooks) as rehearsal,
    ):
        learning_rate.follow(_simulate_schedule(rehearsal, pl_module, learning_rate, hooks))

        def sweep(lrs: Sequence[float], num_repeats: int) -> list[list[float]]:
            return range_test(rehearsal, learning_rate, lrs, settings.early_stop_threshold, num_repeats, on_step)

        started = time.monotonic()
        lrs = settings.lrs
        # With `zoom` the first sweep only has to find the part where the loss falls; if it cannot, more sweeps follow.
        losses = sweep(lrs, 1 if settings.zoom else settings.num_repeats)
        suggestion = suggest_lr(lrs, losses)
        if suggestion.lr is None and len(losses) < settings.num_repeats:
            losses += sweep(lrs, settings.num_repeats - len(losses))
            suggestion = suggest_lr(lrs, losses)
        seconds = time.monotonic() - started
        result = LearningRateResult.from_range_test(
            lrs,
            losses,
            suggestion,
            lr_before=learning_rate.value,
            rule=rule,
            is_named=settings.rule != "auto",
            seconds=seconds,
        )
        if settings.zoom and (part := falling_part(lrs, suggestion)) is not None:
            lrs = tuple(lr_range(part[0], part[1], max(MIN_STEPS, len(lrs) // 2)).tolist())
            losses = sweep(lrs, settings.num_repeats)
            seconds = time.monotonic() - started - seconds
            result = result.with_zoom(lrs, losses, suggest_lr(lrs, losses), seconds)
    return result


def _simulate_schedule(
    rehearsal: Rehearsal, pl_module: pl.LightningModule, learning_rate: LearningRate, hooks: Sequence[str]
) -> Schedule:
    """The schedule over the planned training, which decides what a learning rate means."""
    per_epoch, steps = rehearsal.steps_per_epoch, rehearsal.planned_steps
    if steps is None:
        steps = _UNLIMITED_STEPS if per_epoch is None else min(_UNLIMITED_STEPS, _UNLIMITED_EPOCHS * per_epoch)
    return Schedule.simulate(
        rehearsal.trainer,
        pl_module,
        num_steps=steps,
        steps_per_epoch=math.ceil(steps / _UNLIMITED_EPOCHS) if per_epoch is None else per_epoch,
        steps_done=0 if "on_fit_start" in hooks else rehearsal.trainer.global_step,
        home=learning_rate.home,
    )


def range_test(
    rehearsal: Rehearsal,
    learning_rate: LearningRate,
    lrs: Sequence[float],
    early_stop_threshold: float | None,
    num_repeats: int,
    on_step: Callable[[], None],
) -> list[list[float]]:
    """Sweeps over ``lrs``, each from the same start and over other batches.

    Args:
        rehearsal: An open rehearsal.
        learning_rate: Sets the learning rate of each step with the ratios of the parameter groups.
        lrs: Learning rates in ascending order, one for each step.
        early_stop_threshold: Ends a sweep once its loss stays above this multiple of the initial loss; ``None``: never.
            A loss that is not finite always ends it.
        num_repeats: Number of sweeps.
        on_step: Called after each step, for a progress bar.

    Returns:
        The training losses, ``num_repeats`` rows of ``len(lrs)``; NaN after the end of a sweep. On several processes
        their mean. A step that raises an error because the weights are no longer finite ends a sweep like a loss that
        is not finite.

    """
    sweeps = []
    for repeat in range(num_repeats):
        if repeat:
            rehearsal.rewind()
        losses = _sweep(rehearsal, learning_rate, lrs, early_stop_threshold, on_step)
        sweeps.append(losses + [math.nan] * (len(lrs) - len(losses)))
    rehearsal.rewind()
    return sweeps


def _sweep(
    rehearsal: Rehearsal,
    learning_rate: LearningRate,
    lrs: Sequence[float],
    threshold: float | None,
    on_step: Callable[[], None],
) -> list[float]:
    losses: list[float] = []
    unread: list[Tensor] = []
    for position, lr in enumerate(lrs):
        learning_rate.set_for_step(lr)
        try:
            unread.append(rehearsal.step())
        except Exception:
            # With several processes the others would wait for this one.
            if rehearsal.trainer.world_size > 1 or not rehearsal.has_diverged():
                raise
            return losses + rehearsal.read(unread) if unread else losses
        learning_rate.check_step_lr(lr)
        on_step()
        if len(unread) == _READ_INTERVAL or position == len(lrs) - 1:
            losses += rehearsal.read(unread)
            unread = []
            if has_exploded(losses, threshold):
                break
    return losses
