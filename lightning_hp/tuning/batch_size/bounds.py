"""What bounds a batch size besides memory and speed: the classes, the data, the user's settings.

Pure arithmetic; ``read_bounds.py`` reads the numbers from a Trainer, once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from lightning_hp.data import ClassCounts, UnknownClasses
from lightning_hp.functional.batch_size.class_coverage import (
    batch_size_for_average,
    batch_size_for_coverage,
    coverage_probability,
)
from lightning_hp.tuning.batch_size.choice import Choice, SearchGoal, possible_sizes
from lightning_hp.tuning.batch_size.settings import SPEED_GIVEN_UP, SPEED_GIVEN_UP_FOR_NOTHING, SearchSettings
from lightning_hp.tuning.batch_size.step_counts import StepCount


class LoaderEpoch(NamedTuple):
    """An epoch of one loader, as far as it says how large its last batch is.

    Attributes:
        samples: Samples of one process; ``None`` if not known.
        ratio: Its batch size divided by that of the training.
        has_last: Whether the last batch is drawn although it is not full.
    """

    samples: int | None
    ratio: float
    has_last: bool


@dataclass(frozen=True)
class Bounds:
    """The bounds of the batch size of a training that are known before a step.

    Args:
        settings: The arguments of the callback.
        value: The batch size of the training as it is now.
        accumulate: Batches of one optimizer step now.
        world_size: Number of processes.
        samples: Samples of an epoch on one process; ``None`` if not known.
        max_epochs: Epochs of the training; ``None`` if it has no such end.
        classes: The classes of the training set, or why they are not known.
        max_steps: Optimizer steps of the training; ``None`` if it has no such end.
        max_batches: Batches of an epoch that are used (an int ``limit_train_batches``); ``None``: all.
        smallest: The smallest batch that the loader can form.
        drop_last: Whether an epoch leaves out the last batch if it is not full.
        val_interval: Batches that an epoch needs because the Trainer validates after that many; ``None``: no such need.
        may_accumulate: Whether the accumulation may be changed: no ``GradientAccumulationScheduler`` sets it, and
            optimization is automatic.
        epochs: An epoch of each loader.
        float_limit: The largest batch of which a float ``limit_*_batches`` leaves a batch, and its name.
        counts: What counts batches or steps over the whole training.
        schedules: Names of the schedules that count steps and whose rates do not follow the number of steps.
        has_batch_norm: Whether the samples of a batch are normalised together.
        one_sample_trains: Whether a batch of one sample can be trained with.
        trains: Whether there are optimizer steps to count.

    """

    settings: SearchSettings
    value: int
    accumulate: int
    world_size: int
    samples: int | None
    max_epochs: int | None
    classes: ClassCounts | UnknownClasses
    max_steps: int | None = None
    max_batches: int | None = None
    smallest: int = 1
    drop_last: bool = False
    val_interval: int | None = None
    may_accumulate: bool = True
    epochs: tuple[LoaderEpoch, ...] = ()
    float_limit: tuple[int, str] | None = None
    counts: tuple[StepCount, ...] = ()
    schedules: tuple[str, ...] = ()
    has_batch_norm: bool = False
    one_sample_trains: bool = True
    trains: bool = True

    @property
    def share(self) -> int | None:
        """Samples of one process in an optimizer step, if ``effective_batch_size`` fixes them."""
        total = self.settings.effective_batch_size
        return None if total is None else total // self.world_size

    @property
    def data_limit(self) -> int | None:
        """The largest batch that leaves epoch and training the optimizer steps that they need.

        It is never less than the present batch size, as far as there are samples for it: the user has chosen how few
        steps to take.
        """
        if self.samples is None:
            return None
        limit = self.samples
        if self.trains and self.share is None:
            steps = self.settings.min_steps_per_epoch
            if self.max_epochs is not None:
                steps = max(steps, -(-self.settings.min_training_steps // self.max_epochs))
            limit //= steps * self.accumulate
        limit = max(1, limit, min(self.value, self.samples))
        if self.val_interval is not None:
            limit = max(1, min(limit, self.samples // self.val_interval))
        if self.float_limit is not None:
            limit = min(limit, self.float_limit[0])
        return limit if self.count_limit is None else min(limit, self.count_limit[0])

    @property
    def step_limit(self) -> int | None:
        """The largest batch with which the training keeps its share of the optimizer steps that the user planned."""
        share = self.settings.step_share
        if share is None or self.share is not None or not self.trains:
            return None
        low, most = self.value, math.floor(self.own_size / share)
        if self.samples is None:  # the steps are not known; they fall with the size, unless their number is given
            return None if self.max_steps is not None else max(low, most)
        high = self.samples
        if self.steps_kept(high) >= share:
            return None
        while low + 1 < high:  # kept at low, or the present size, which is always allowed; not kept at high
            middle = (low + high) // 2
            low, high = (middle, high) if self.steps_kept(middle) >= share else (low, middle)
        return low

    @property
    def own_size(self) -> int:
        """The batch size that the user's own number of steps belongs to, before earlier searches."""
        own = self.settings.own_step
        return self.value if own is None else max(1, min(self.value, own // (self.accumulate * self.world_size)))

    def steps_kept(self, size: int, accumulate: int | None = None) -> float:
        """Optimizer steps at a size divided by those of the user's own, of the training or else of an epoch."""
        acc = self.accumulate if accumulate is None else accumulate
        own, new = self.num_training_steps(self.own_size, self.accumulate), self.num_training_steps(size, acc)
        if own == math.inf:
            own, new = self.steps_per_epoch(self.own_size, self.accumulate) or 1, self.steps_per_epoch(size, acc) or 1
        return new / own

    @property
    def count_limit(self) -> tuple[int, str] | None:
        """The largest batch at which all that counts batches or steps acts once, as far as it does now; and what."""
        if self.share is not None:  # the number of steps is the user's
            return None
        limits = []
        for count in self.counts:
            low, high = self.value, self.samples or 0
            if self.times(count, low) < 1 or self.times(count, high) >= 1:
                continue
            while low + 1 < high:  # acts at low, not at high
                middle = (low + high) // 2
                low, high = (middle, high) if self.times(count, middle) >= 1 else (low, middle)
            limits.append((low, count.name))
        return min(limits, default=None)

    def times(self, count: StepCount, size: int, accumulate: int | None = None) -> float:
        """How often something that counts acts in a training with batches of a size."""
        steps = self.accumulate if accumulate is None else accumulate
        total = self.num_training_steps(size, steps)
        if count.in_batches:
            per_epoch = self.steps_per_epoch(size, 1)
            epochs = math.inf if per_epoch is None or self.max_epochs is None else per_epoch * self.max_epochs
            total = min(epochs, math.inf if self.max_steps is None else self.max_steps * steps)
        return total if total == math.inf else total // count.interval

    @property
    def highest(self) -> tuple[int, str]:
        """The largest batch that data and settings allow, and which of them limits it."""
        limits = [(self.settings.max_val, "max_val")]
        if self.data_limit is not None:
            limits.append((self.data_limit, "data"))
        if self.step_limit is not None:
            limits.append((self.step_limit, "steps"))
        if self.share is not None:
            limits.append((self.share, "effective_batch_size"))
        return min(limits)

    @property
    def needed(self) -> int:
        """Samples of an optimizer step that the classes need; 0 if they need none."""
        counts, least = self.classes, self.settings.min_per_class
        if isinstance(counts, UnknownClasses) or not least or counts.guaranteed >= least:
            return 0
        if self.settings.coverage is not None and not counts.no_coverage:
            size = batch_size_for_coverage(
                self.settings.coverage, counts.present, least, replacement=counts.replacement
            )
            if size is not None:  # of classes without samples only the number is known
                unseen = self.num_classes > len(counts.present)
                return max(size, batch_size_for_average(self.num_classes, least)) if unseen else size
        return batch_size_for_average(self.num_classes, least)

    @property
    def num_classes(self) -> int:
        """The number of classes that a step should contain: that of the user, or of the classes that have samples."""
        if isinstance(self.classes, UnknownClasses):
            return 0
        return max(len(self.classes.present), self.settings.num_classes or 0)

    @property
    def goal(self) -> SearchGoal:
        """What the search looks for."""
        highest, _ = self.highest
        lowest = min(highest, max(self.smallest, 2 if self.value > 1 else 1))  # one sample has no batch statistics
        per_sample = self.world_size * self.accumulate
        is_free = self.settings.objective == "throughput" and self.settings.round_to is None and self.share is None
        present = self.value if self.trains and is_free else None
        by_default = SPEED_GIVEN_UP_FOR_NOTHING if present is None else SPEED_GIVEN_UP
        goal = SearchGoal(
            init_val=max(self.settings.init_val, lowest),
            lowest=lowest,
            highest=highest,
            at_least=-(-self.needed // per_sample) if self.share is None else 0,
            objective=self.settings.objective,
            within=by_default if self.settings.within is None else self.settings.within,
            round_to=self.settings.grid if self.share is None else 1,
            margin=self.settings.margin,
            divisor_of=self.share,
            present=present,
            is_allowed=self.is_allowed,
        )
        if self.one_sample_trains or self.settings.round_to is not None or possible_sizes(goal, highest):
            return goal
        return replace(goal, round_to=1)  # any size is better than none that can be trained with

    def is_allowed(self, size: int) -> bool:
        """Whether no batch of the training has one sample, where that is an error."""
        if self.one_sample_trains:
            return True
        return self.batches_before_one(size) is None and all(_scaled(size, epoch.ratio) > 1 for epoch in self.epochs)

    def batches_before_one(self, size: int) -> int | None:
        """Batches of an epoch before a last one of a single sample; ``None`` if the epoch has no such batch."""
        if self.one_sample_trains:
            return None
        most = math.inf if self.max_batches is None else self.max_batches
        batches = [
            epoch.samples // _scaled(size, epoch.ratio)
            for epoch in self.epochs
            if epoch.has_last and epoch.samples is not None and epoch.samples % _scaled(size, epoch.ratio) == 1
        ]
        return min((number for number in batches if number < most), default=None)

    def accumulation(self, choice: Choice) -> int:
        """Batches of one optimizer step at the chosen size: more where memory allows less than the classes need."""
        size = choice.batch_size or 1
        if self.share is not None:
            return self.share // size
        step = size * self.accumulate * self.world_size
        if choice.limit is None or step >= self.needed or not self.may_accumulate:
            return self.accumulate
        enough = -(-self.needed // (size * self.world_size))
        if self.samples is None:
            return enough
        affordable = self.samples // (size * self.settings.min_steps_per_epoch)
        more = max(self.accumulate, min(enough, affordable))
        share = self.settings.step_share or 0.0
        while more > self.accumulate and self.steps_kept(size, more) < share:
            more -= 1
        return more

    def probability(self, step: int) -> float | None:
        """The probability that ``step`` samples contain every class ``min_per_class`` times; ``None`` if not known."""
        counts, least = self.classes, self.settings.min_per_class
        if isinstance(counts, UnknownClasses) or not least:
            return None
        if counts.guaranteed >= least:
            return 1.0
        if counts.no_coverage:
            return None
        if self.samples is not None:  # an optimizer step ends with the epoch
            step = min(step, self.samples * self.world_size)
        replacement = counts.replacement or step > counts.present.sum()
        return coverage_probability(step, counts.present, least, replacement=replacement)

    def num_training_steps(self, size: int, accumulate: int) -> float:
        """Optimizer steps of the whole training at a batch size; ``math.inf`` if not known."""
        steps = math.inf if self.max_steps is None else self.max_steps
        per_epoch = self.steps_per_epoch(size, accumulate)
        if per_epoch is None or self.max_epochs is None:
            return float(steps)
        return float(max(1, min(steps, per_epoch * self.max_epochs)))

    def steps_per_epoch(self, size: int, accumulate: int) -> int | None:
        """Optimizer steps of an epoch at a batch size; ``None`` if not known."""
        if self.samples is None:
            return None
        batches = self.samples // size if self.drop_last else -(-self.samples // size)
        if self.max_batches is not None:
            batches = min(batches, self.max_batches)
        return max(1, -(-batches // accumulate))  # Lightning steps at the last batch of an epoch in any case

    def base_batch_size(self) -> int:
        """The effective batch size for which the learning rate was tuned: the argument, or else the present one."""
        if self.settings.base_batch_size is not None:
            return self.settings.base_batch_size
        step = self.value * self.accumulate
        return (step if self.samples is None else min(step, self.samples)) * self.world_size


def _scaled(size: int, ratio: float) -> int:
    """The batch size of a loader, if that of the training is ``size``."""
    return max(1, round(size * ratio))
