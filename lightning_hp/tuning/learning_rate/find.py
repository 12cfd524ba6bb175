"""Finds a learning rate in a running Trainer.

one sweep over all learning rates, from the start of the training
where the rate is asked of short trainings, and the budget has room for them:
    short trainings at rates below the one where the sweep explodes, from the same start over the same batches
    a longer training at the rate that they choose
otherwise the curve of the sweep is read:
    where it shows too little, more sweeps, each from the same start over other batches; the median is read
    several sweeps of half as many steps over the part where the loss falls; the median of these is read
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_hp.functional.learning_rate.range_test import lr_range
from lightning_hp.functional.learning_rate.suggestion import (
    IN_A_ROW,
    MIN_SIGNAL_OF_FEW,
    LRSuggestion,
    exploding_rate,
    falling_part,
    lowest_loss,
    suggest_lr,
)
from lightning_hp.functional.learning_rate.training_losses import unchanged_losses
from lightning_hp.functional.learning_rate.tried_rates import first_rate
from lightning_hp.hyperparameters import LearningRate, Schedule
from lightning_hp.rehearsal import Moment, Rehearsal
from lightning_hp.reporting import progress_bar
from lightning_hp.results import LearningRateResult
from lightning_hp.trainer import reduce_over_ranks, seconds_left
from lightning_hp.tuning.learning_rate.range_test import range_test
from lightning_hp.tuning.learning_rate.settings import (
    DEFAULT_STEPS,
    MIN_STEPS,
    TIME_SHARE,
    LearningRateSettings,
    default_budget,
)
from lightning_hp.tuning.learning_rate.short_trainings import (
    MIN_TRAINING_STEPS,
    ShortTrainings,
    steps_of_each,
)
from lightning_hp.tuning.learning_rate.steps import Stepper

if TYPE_CHECKING:
    import pytorch_lightning as pl

# What is simulated of a training without a limit: the smaller of both.
_UNLIMITED_EPOCHS, _UNLIMITED_STEPS = 100, 10_000


def find_learning_rate(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    learning_rate: LearningRate,
    settings: LearningRateSettings,
    moment: Moment,
) -> LearningRateResult:
    """Finds the learning rate of a training; sets nothing.

    Args:
        trainer: A Trainer inside ``fit``, before a batch.
        pl_module: Its module.
        learning_rate: Where the learning rate is kept.
        settings: The arguments of the callback.
        moment: Where in the training this is.

    Returns:
        The result; its ``suggestion`` is ``None`` if nothing shows that the module learns.

    Raises:
        MisconfigurationException: If the training cannot be rehearsed.

    """
    time_left = seconds_left(trainer)  # a rehearsal mutes the callback that knows
    with (
        progress_bar(trainer, "Finding the learning rate", "steps") as on_step,
        Rehearsal(trainer, pl_module, moment) as rehearsal,
    ):
        learning_rate.follow(_simulate_schedule(rehearsal, pl_module, learning_rate, moment))
        stepper = Stepper(rehearsal, learning_rate, settings.early_stop_threshold, on_step)
        midway = not moment.is_before_training
        return _Search(stepper, settings, rehearsal.planned_steps, midway, time_left).search()


class _Search:
    """One search, in an open rehearsal."""

    def __init__(
        self,
        stepper: Stepper,
        settings: LearningRateSettings,
        planned_steps: int | None,
        midway: bool,
        time_left: float | None,
    ) -> None:
        self._stepper = stepper
        self._settings = settings
        self._planned_steps = planned_steps
        self._midway = midway
        self._time_left = time_left
        self._budget = default_budget(planned_steps) if settings.budget is None else settings.budget
        self._started = time.monotonic()

    def search(self) -> LearningRateResult:
        """Short trainings, or the reading of the curve where it was asked for or these would be too short."""
        settings, lrs = self._settings, self._settings.lrs
        if settings.rule not in ("auto", "trainings"):
            return self.by_curve(settings.rule, is_named=True)
        if settings.may_halve and self._budget < DEFAULT_STEPS:
            lrs = tuple(lr_range(lrs[0], lrs[-1], max(MIN_STEPS, len(lrs) // 2)).tolist())
        if settings.rule == "auto" and steps_of_each(self._budget - len(lrs)) < MIN_TRAINING_STEPS:
            rule = "one_cycle" if self._stepper.learning_rate.is_one_cycle else "fall"
            return self.by_curve(rule, is_named=False)
        return self.by_trainings(lrs)

    def by_trainings(self, lrs: Sequence[float]) -> LearningRateResult:
        """A sweep and short trainings below its edge.

        Args:
            lrs: Learning rates of the sweep.

        Returns:
            The result.

        """
        losses = range_test(self._stepper, lrs, 1)
        suggestion = suggest_lr(lrs, losses)
        edge = exploding_rate(lrs, losses, suggestion)
        untrained = _untrained(lrs, losses[0], edge)
        if len(untrained) < 2:
            return self._result(lrs, losses, suggestion, "fall")
        self._keep_to_time()
        left = max(self._budget - self._stepper.num_steps, 4 * MIN_TRAINING_STEPS)
        # Longer ones than the training would say nothing about it; the budget then has room for more of them.
        num_steps = min(steps_of_each(left), max(self._planned_steps or left, MIN_TRAINING_STEPS))
        trainings = ShortTrainings(self._stepper, num_steps, left, self._midway)
        has_valley = suggestion.signal >= MIN_SIGNAL_OF_FEW
        present = self._stepper.learning_rate.value if self._midway else None
        lowest, loss = lowest_loss(lrs, losses[0])
        is_fall = loss < unchanged_losses(untrained, IN_A_ROW, share=1.0)[0]
        first = first_rate(edge, lowest if is_fall else None, has_valley, present)
        trainings.run(min(max(first, lrs[0]), lrs[-1]), lrs[0], lrs[-1], untrained, self._planned_steps)
        result = self._result(lrs, losses, suggestion, "fall")
        return result.with_trainings(
            trainings.losses,
            trainings.choice,
            checked_losses=trainings.checked_losses,
            num_steps=self._stepper.num_steps,
            note=trainings.note,
            seconds=self._seconds(since=result.seconds),
        )

    def by_curve(self, rule: str, is_named: bool) -> LearningRateResult:
        """Reads the curve of sweeps.

        Args:
            rule: How it is read.
            is_named: Whether the user asked for this rule.

        Returns:
            The result.

        """
        settings, lrs = self._settings, self._settings.lrs
        # With `zoom` the first sweep only has to find where the loss falls; if it cannot, more sweeps follow.
        repeats = 1 if settings.zoom else settings.num_repeats
        losses = range_test(self._stepper, lrs, max(1, self._room_for(repeats, len(lrs), is_named)))
        suggestion = suggest_lr(lrs, losses)
        if suggestion.lr is None and (more := self._room_for(settings.num_repeats - len(losses), len(lrs), is_named)):
            losses += range_test(self._stepper, lrs, more)
            suggestion = suggest_lr(lrs, losses)
        result = self._result(lrs, losses, suggestion, rule, is_named)
        if settings.zoom and (part := falling_part(lrs, suggestion)) is not None:
            num_steps = max(MIN_STEPS, len(lrs) // 2)
            zoom_lrs = tuple(lr_range(part[0], part[1], num_steps).tolist())
            if repeats := self._room_for(settings.num_repeats, num_steps, is_named):
                losses = range_test(self._stepper, zoom_lrs, repeats)
                seconds = self._seconds(since=result.seconds)
                result = result.with_zoom(zoom_lrs, losses, suggest_lr(zoom_lrs, losses), seconds)
        return result

    def _result(
        self,
        lrs: Sequence[float],
        losses: list[list[float]],
        suggestion: LRSuggestion,
        rule: str,
        is_named: bool = False,
    ) -> LearningRateResult:
        return LearningRateResult.from_range_test(
            lrs,
            losses,
            suggestion,
            lr_before=self._stepper.learning_rate.value,
            rule=rule,
            is_named=is_named,
            seconds=self._seconds(),
            planned_steps=self._planned_steps,
        )

    def _keep_to_time(self) -> None:
        """Lowers the budget to what the steps so far show to fit into a share of ``max_time``, equal on all ranks."""
        if self._time_left is None or self._settings.budget is not None:
            return
        steps = TIME_SHARE * self._time_left * self._stepper.num_steps / max(self._seconds(), 1e-6)
        trainer = self._stepper.rehearsal.trainer
        self._budget = int(reduce_over_ranks(trainer, [min(float(self._budget), steps)], "min")[0])

    def _seconds(self, since: float = 0.0) -> float:
        return time.monotonic() - self._started - since

    def _room_for(self, repeats: int, num_steps: int, is_named: bool) -> int:
        """How many of some sweeps the budget has room for. A rule that is named has no budget by default."""
        if is_named and self._settings.budget is None:
            return repeats
        return max(0, min(repeats, (self._budget - self._stepper.num_steps) // num_steps))


def _untrained(lrs: Sequence[float], losses: Sequence[float], edge: float) -> list[float]:
    """Losses of a sweep before anything is learned: up to a thousandth of the edge, and of ten steps at least."""
    end = max(lrs[MIN_STEPS - 1], edge / 1000)
    return [loss for lr, loss in zip(lrs, losses, strict=True) if lr <= end and math.isfinite(loss)]


def _simulate_schedule(
    rehearsal: Rehearsal, pl_module: pl.LightningModule, learning_rate: LearningRate, moment: Moment
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
        steps_done=0 if moment.is_before_training else rehearsal.trainer.global_step,
        home=learning_rate.home,
    )
