"""Trains at a few learning rates, from the start of the training over its first batches, and chooses one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lightning_hp.functional.learning_rate.short_trainings import TrainedChoice, choose_rate
from lightning_hp.functional.learning_rate.training_losses import (
    best_rate,
    final_losses,
    rises_again,
    unchanged_losses,
)
from lightning_hp.functional.learning_rate.training_schedule import cool_down, progress_of
from lightning_hp.functional.learning_rate.tried_rates import STEP, next_rate
from lightning_hp.tuning.learning_rate.steps import Stepper

#: Fewer steps say less than the range test.
MIN_TRAINING_STEPS = 15

#: The check is longer than the trainings by this factor at least, or it would say nothing new.
CHECK_FACTOR = 1.5

#: The last training may have this share of the steps of the others. Shorter ones make lower rates look better.
SHORTEST = 0.7

#: Steps after which an optimizer's own warm-up is over.
LONG = 10_000


def steps_of_each(budget: int) -> int:
    """Steps of each training, so that there is room for four: three are enough where the first rate is a good one."""
    return budget // 4


@dataclass
class ShortTrainings:
    """Short trainings at a few rates, and a longer one at the rate that was chosen.

    Attributes:
        stepper: Runs the steps.
        num_steps: Steps of each training; they have the rates of the first steps of the planned one.
        budget: Steps that all trainings may take together.
        midway: Whether the training has begun.
        losses: The losses of each rate.
        choice: What was chosen.
        checked_losses: The losses of a longer training at the chosen rate; empty if the budget was spent before.
        note: What the check changed, in one sentence, or ``None``.

    """

    stepper: Stepper
    num_steps: int
    budget: int
    midway: bool = False
    losses: dict[float, list[float]] = field(default_factory=dict)
    choice: TrainedChoice = field(default_factory=TrainedChoice)
    checked_losses: list[float] = field(default_factory=list)
    note: str | None = None

    def run(
        self, first: float, lowest: float, highest: float, untrained: Sequence[float], planned_steps: int | None
    ) -> None:
        """Trains at rates from ``first`` on, chooses, and checks the choice.

        Args:
            first: The first rate.
            lowest: No lower rate is tried.
            highest: No higher rate is tried.
            untrained: Losses before anything is learned.
            planned_steps: Steps of the planned training, or ``None`` if it has no limit.

        """
        last = self.stepper.num_steps + self.budget
        unchanged = None if self.midway else unchanged_losses(untrained, self.num_steps)
        passes = self._passes(planned_steps)  # an epoch may accumulate more batches than the first one
        shortest = max(MIN_TRAINING_STEPS, round(SHORTEST * self.num_steps))
        rate: float | None = first
        while rate is not None:
            steps = min(self.num_steps, last - self.stepper.num_steps)
            if steps < min(shortest, self.num_steps):
                break
            self.losses[rate] = self._train(rate, steps, self.num_steps, planned_steps)
            rate = next_rate(final_losses(self.losses, self.num_steps), first, lowest, highest, unchanged)
        learning_rate = self.stepper.learning_rate
        self.choice = choose_rate(
            self.losses,
            self.num_steps,
            untrained,
            doublings=self._doublings(planned_steps),
            decays=learning_rate.decays or learning_rate.has_shrinking_steps,
            passes=passes,
            lengthening=self._lengthening(planned_steps),
        )
        if self.choice.lr is not None:
            self._note_doubts(lowest, highest)
            self._check(last, planned_steps)

    def _note_doubts(self, lowest: float, highest: float) -> None:
        """Says so where rates are tied, or a neighbour of the best one was not tried."""
        if self.choice.tied is not None:
            low, high = self.choice.tied
            self.note = (
                f"Rates from {low:.3g} to {high:.3g} differ by no more than their noise: the suggestion starts from one"
                " between the best and the middle of them, and is lower the longer the training is. A larger `budget`,"
                " which makes the short trainings longer, may tell them apart."
            )
            return
        final = final_losses(self.losses, self.num_steps)
        best = best_rate(final)
        for end, side, is_last in (
            (max(final), "highest", best * STEP > highest),
            (min(final), "lowest", best / STEP < lowest),
        ):
            if best == end and not is_last:
                self.note = (
                    f"The {side} rate that was tried is the best one; one that is {side.replace('est', 'er')} may be"
                    " better."
                )

    def _doublings(self, planned_steps: int | None) -> float:
        """How often the steps double until the end of the training."""
        if self.midway:
            return 0.0
        return math.inf if planned_steps is None else max(0.0, math.log2(planned_steps / self.num_steps))

    def _passes(self, planned_steps: int | None) -> float:
        per_pass = self.stepper.rehearsal.steps_per_epoch
        return 1.0 if self.midway or planned_steps is None or per_pass is None else planned_steps / per_pass

    def _lengthening(self, planned_steps: int | None) -> float:
        """How many times longer steps get after a short training, by a warm-up of the optimizer's own."""
        learning_rate = self.stepper.learning_rate
        if self.midway or not learning_rate.has_own_warm_up:
            return 1.0
        of_short = (
            factor * learning_rate.step_length(step + 1, progress)
            for step, (factor, progress) in enumerate(self._moments(1.0, self.num_steps, self.num_steps, planned_steps))
        )
        planned = max(self.num_steps, planned_steps or LONG)
        steps = np.unique(np.linspace(0, planned - 1, min(planned, LONG), dtype=int)).tolist()
        of_planned = (learning_rate.step_length(step + 1, (step + 0.5) / planned) for step in steps)
        return max(1.0, max(of_planned) / max(of_short))

    def _check(self, last: int, planned_steps: int | None) -> None:
        """Trains longer at the chosen rate, and takes a lower one if the loss rises again."""
        while (lr := self.choice.lr) is not None:
            num_steps = last - self.stepper.num_steps
            if planned_steps is not None:
                num_steps = min(num_steps, planned_steps)
            if num_steps < CHECK_FACTOR * self.num_steps:
                return
            self.checked_losses = self._train(lr, num_steps, num_steps, planned_steps)
            if len(self.checked_losses) == num_steps and not rises_again(self.checked_losses):
                return
            self.checked_losses = []
            low, high = self.choice.interval or (lr, lr)
            self.choice = replace(self.choice, lr=lr / STEP, interval=(min(low, lr / STEP), min(high, lr)))
            self.note = f"At {lr:.3g} the loss rose again within {num_steps} steps, so a lower rate was taken."

    def _train(self, lr: float, num_steps: int, of_steps: int, planned_steps: int | None) -> list[float]:
        """The first ``num_steps`` of a short training of ``of_steps``."""
        self.stepper.rehearsal.rewind(same_batches=True)
        return self.stepper.run(self._moments(lr, num_steps, of_steps, planned_steps))

    def _moments(
        self, lr: float, num_steps: int, of_steps: int, planned_steps: int | None
    ) -> Iterator[tuple[float, float]]:
        """The rate at the peak and the progress of each step."""
        warm_up = self.stepper.learning_rate.warm_up
        cools = self.midway or self.stepper.learning_rate.decays
        for step in range(num_steps):
            yield lr * cool_down(step, of_steps) if cools else lr, progress_of(step, of_steps, planned_steps, warm_up)
