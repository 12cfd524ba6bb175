"""What bounds a batch size besides memory and speed: the classes, the data, the user's settings.

Pure arithmetic; ``read_bounds.py`` reads the numbers from a Trainer, once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_hp.data import ClassCounts, UnknownClasses
from lightning_hp.functional.batch_size.class_coverage import (
    batch_size_for_average,
    batch_size_for_coverage,
    coverage_probability,
)
from lightning_hp.tuning.batch_size.choice import Choice, SearchGoal
from lightning_hp.tuning.batch_size.settings import SearchSettings


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
        has_batch_norm: Whether a batch of one sample is an error.
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
    has_batch_norm: bool = False
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
        return limit if self.val_interval is None else max(1, min(limit, self.samples // self.val_interval))

    @property
    def highest(self) -> tuple[int, str]:
        """The largest batch that data and settings allow, and which of them limits it."""
        limits = [(self.settings.max_val, "max_val")]
        if self.data_limit is not None:
            limits.append((self.data_limit, "data"))
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
            if size is not None:
                return size
        return batch_size_for_average(counts.present, least)

    @property
    def goal(self) -> SearchGoal:
        """What the search looks for."""
        highest, _ = self.highest
        lowest = min(highest, max(self.smallest, 2 if self.value > 1 else 1))  # one sample has no batch statistics
        per_sample = self.world_size * self.accumulate
        return SearchGoal(
            init_val=max(self.settings.init_val, lowest),
            lowest=lowest,
            highest=highest,
            at_least=-(-self.needed // per_sample) if self.share is None else 0,
            objective=self.settings.objective,
            within=self.settings.within,
            round_to=self.settings.round_to if self.share is None else 1,
            margin=self.settings.margin,
            divisor_of=self.share,
            no_last_batch_of_one=self.samples if self.has_batch_norm and not self.drop_last else None,
        )

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
        return max(self.accumulate, min(enough, affordable))

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
