"""What bounds a batch size besides memory and speed: the classes, the data, the user."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch.nn.modules.batchnorm import _BatchNorm

from lightning_hp.data import ClassCounts, NoClasses, class_counts
from lightning_hp.functional.batch_size.class_coverage import batch_size_for_coverage, coverage_probability
from lightning_hp.functional.batch_size.search import RoundTo
from lightning_hp.hyperparameters import BatchSize
from lightning_hp.rehearsal import EvaluationRehearsal, Rehearsal
from lightning_hp.trainer import batch_size_of, misconfiguration, samples_of
from lightning_hp.tuning.batch_size.choice import Choice, Objective, Wanted

Scaling = Literal["linear", "sqrt", "auto"]


@dataclass(frozen=True)
class Asked:
    """What the user asks of a batch size; the arguments of :class:`~lightning_hp.BatchSizeScaler` of these names."""

    min_per_class: int
    coverage: float | None
    num_classes: int | None
    read_labels: bool
    max_val: int
    min_steps_per_epoch: int
    min_training_steps: int
    effective_batch_size: int | None
    init_val: int
    round_to: RoundTo
    objective: Objective
    within: float
    margin: float
    steps_per_trial: int
    memory_share: float
    base_batch_size: int | None
    lr_scaling: Scaling | None
    warmup: bool | int


@dataclass(frozen=True)
class Bounds:
    """What bounds the batch size of a training, as far as it is known before a step.

    Args:
        asked: What the user asks.
        value: The batch size that the training came with.
        accumulate: Its batches for one optimizer step.
        world_size: Its processes.
        samples: Samples of an epoch on one process, or ``None`` if that is not known.
        epochs: Epochs of the training, or ``None`` if it has no such end.
        least: The smallest batch that the loader can form.
        drops_last: Whether an epoch leaves out the last batch where it is not full.
        interval: Batches that an epoch needs, since the Trainer validates after so many, or ``None``.
        classes: The classes of the training set, or why they are not known.
        may_accumulate: Whether the accumulation may be changed: no GradientAccumulationScheduler sets it, and it is
            Lightning that steps.
        has_batch_norm: Whether a batch of one sample would be an error.
        trains: Whether there are optimizer steps to count.

    """

    asked: Asked
    value: int
    accumulate: int
    world_size: int
    samples: int | None
    epochs: int | None
    classes: ClassCounts | NoClasses
    least: int = 1
    drops_last: bool = False
    interval: int | None = None
    may_accumulate: bool = True
    has_batch_norm: bool = False
    trains: bool = True

    @classmethod
    def read(cls, asked: Asked, rehearsal: Rehearsal, batch_size: BatchSize) -> Bounds:
        """Reads them off the loaders of an open rehearsal.

        Raises:
            MisconfigurationException: If ``effective_batch_size`` cannot be reached, or ``max_val`` is less than the
                smallest batch that the loader can form.

        """
        trainer, value = rehearsal.trainer, batch_size.value
        loaders = rehearsal.loaders
        module = trainer.lightning_module
        samples = min(_samples(loaders, value), default=None)
        if samples is not None and isinstance(trainer.limit_train_batches, float):
            samples = int(samples * trainer.limit_train_batches)
        batch_samplers = [getattr(loader, "batch_sampler", None) for loader in loaders]
        bounds = cls(
            asked=asked,
            value=value,
            accumulate=trainer.accumulate_grad_batches,
            world_size=trainer.world_size,
            samples=samples,
            epochs=None if trainer.max_epochs in (None, -1) else trainer.max_epochs,
            classes=_read_classes(asked, batch_size.first_loader, trainer.world_size),
            least=max(getattr(one, "least_batch_size", 1) for one in batch_samplers),
            drops_last=any(bool(getattr(one, "drop_last", False)) for one in batch_samplers),
            interval=_validation_interval(trainer),
            may_accumulate=module.automatic_optimization and not _is_scheduled(trainer),
            has_batch_norm=any(isinstance(child, _BatchNorm) for child in module.modules()),
        )
        refuse_what_cannot_be_reached(trainer, bounds)
        return bounds

    @classmethod
    def of_evaluation(cls, asked: Asked, rehearsal: EvaluationRehearsal, batch_size: BatchSize) -> Bounds:
        """Those of a loop that does not train: memory, speed, data and user."""
        asked = replace(asked, min_per_class=0, min_steps_per_epoch=1, effective_batch_size=None)
        # The loaders come one after another, so the largest has the say.
        samples = max(_samples(rehearsal.loaders, batch_size.value), default=None)
        nothing = NoClasses("nothing is trained")
        return cls(asked, batch_size.value, 1, rehearsal.trainer.world_size, samples, None, nothing, trains=False)

    @property
    def share(self) -> int | None:
        """Samples of one process for one optimizer step, if that is fixed."""
        total = self.asked.effective_batch_size
        return None if total is None else total // self.world_size

    @property
    def most_of_data(self) -> int | None:
        """The largest batch that leaves epoch and training their steps.

        Never less than the training came with, as far as there is so much data: it has chosen how few steps it takes.
        """
        if self.samples is None:
            return None
        most = self.samples
        if self.trains and self.share is None:
            steps = self.asked.min_steps_per_epoch
            if self.epochs is not None:
                steps = max(steps, -(-self.asked.min_training_steps // self.epochs))
            most //= steps * self.accumulate
        most = max(1, most, min(self.value, self.samples))
        return most if self.interval is None else max(1, min(most, self.samples // self.interval))

    @property
    def highest(self) -> tuple[int, str]:
        """The largest batch of data and user, and whose it is."""
        bounds = [(self.asked.max_val, "max_val")]
        if self.most_of_data is not None:
            bounds.append((self.most_of_data, "data"))
        if self.share is not None:
            bounds.append((self.share, "effective_batch_size"))
        return min(bounds)

    @property
    def needed(self) -> int:
        """Samples of an optimizer step that the classes need, 0 for nothing."""
        counts, least = self.classes, self.asked.min_per_class
        if isinstance(counts, NoClasses) or not least or counts.guaranteed >= least:
            return 0
        average = least * len(counts.present)
        if self.asked.coverage is None or counts.no_coverage:
            return average
        covering = batch_size_for_coverage(self.asked.coverage, counts.present, least, replacement=counts.replacement)
        return average if covering is None else covering

    @property
    def wanted(self) -> Wanted:
        """What to look for."""
        highest, _ = self.highest
        lowest = min(highest, max(self.least, 2 if self.value > 1 else 1))  # a batch of one has no statistics
        micro = self.world_size * self.accumulate
        return Wanted(
            init_val=max(self.asked.init_val, lowest),
            lowest=lowest,
            highest=highest,
            at_least=-(-self.needed // micro) if self.share is None else 0,
            objective=self.asked.objective,
            within=self.asked.within,
            round_to=self.asked.round_to if self.share is None else 1,
            margin=self.asked.margin,
            share_of=self.share,
            leaves_no_one=self.samples if self.has_batch_norm and not self.drops_last else None,
        )

    def accumulation(self, choice: Choice) -> int:
        """Batches for one optimizer step at the size that was chosen: more where memory keeps the classes apart."""
        size = choice.batch_size or 1
        if self.share is not None:
            return self.share // size
        step = size * self.accumulate * self.world_size
        if choice.limit is None or step >= self.needed or not self.may_accumulate:
            return self.accumulate
        enough = -(-self.needed // (size * self.world_size))
        if self.samples is None:
            return enough
        affordable = self.samples // (size * self.asked.min_steps_per_epoch)
        return max(self.accumulate, min(enough, affordable))

    def probability(self, step: int) -> float | None:
        """The probability that ``step`` samples show every class often enough, where it can be known."""
        counts, least = self.classes, self.asked.min_per_class
        if isinstance(counts, NoClasses) or not least:
            return None
        if counts.guaranteed >= least:
            return 1.0
        if counts.no_coverage:
            return None
        if self.samples is not None:  # a step ends with the epoch
            step = min(step, self.samples * self.world_size)
        replacement = counts.replacement or step > counts.present.sum()
        return coverage_probability(step, counts.present, least, replacement=replacement)

    def num_training_steps(self, trainer: Any, size: int, accumulate: int) -> float:
        """Optimizer steps of the whole training at a size, ``math.inf`` if that is not known."""
        steps = math.inf if trainer.max_steps in (None, -1) else trainer.max_steps
        per_epoch = self.steps_per_epoch(trainer, size, accumulate)
        if per_epoch is None or trainer.max_epochs in (None, -1):
            return float(steps)
        return float(max(1, min(steps, per_epoch * trainer.max_epochs)))

    def steps_per_epoch(self, trainer: Any, size: int, accumulate: int) -> int | None:
        """Optimizer steps of an epoch at a size, if that is known."""
        if self.samples is None:
            return None
        batches = self.samples // size if self.drops_last else -(-self.samples // size)
        if isinstance(trainer.limit_train_batches, int):
            batches = min(batches, trainer.limit_train_batches)
        return max(1, -(-batches // accumulate))  # Lightning steps at the last batch in any case

    def base(self) -> int:
        """Samples of an optimizer step of the training as it came."""
        if self.asked.base_batch_size is not None:
            return self.asked.base_batch_size
        step = self.value * self.accumulate
        return (step if self.samples is None else min(step, self.samples)) * self.world_size


def _samples(loaders: list[Any], value: int) -> list[int]:
    """Samples of an epoch of each loader, where known; one with smaller batches needs fewer for the same number."""
    return [
        samples * value // (batch_size_of(loader) or value)
        for loader in loaders
        if (samples := samples_of(loader)) is not None
    ]


def _is_scheduled(trainer: Any) -> bool:
    names = {base.__name__ for callback in trainer.callbacks for base in type(callback).__mro__}
    return "GradientAccumulationScheduler" in names


def _validation_interval(trainer: Any) -> int | None:
    """Lightning refuses an epoch that is shorter than the batches after which it validates."""
    by_epoch = trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches > 0
    return trainer.val_check_interval if by_epoch and isinstance(trainer.val_check_interval, int) else None


def _read_classes(asked: Asked, loader: Any, world_size: int) -> ClassCounts | NoClasses:
    if not asked.min_per_class:
        return NoClasses("nothing asked")
    patience = 60.0 if world_size == 1 else math.inf  # all processes have to come to the same answer
    return class_counts(loader, asked.num_classes, allow_pass=asked.read_labels, max_seconds=patience)


def refuse_what_cannot_be_reached(trainer: Any, bounds: Bounds) -> None:
    """Raises ``MisconfigurationException`` for what no batch size can fulfil."""
    total, world_size = bounds.asked.effective_batch_size, bounds.world_size
    if bounds.least > bounds.highest[0]:
        raise misconfiguration(
            trainer,
            f"Expected batches of {bounds.least} samples or more, which the batch sampler needs, but"
            f" {bounds.highest[1]} allows {bounds.highest[0]}. Raise `max_val`, or ask the sampler for less.",
        )
    if total is None:
        return
    if total % world_size:
        raise misconfiguration(
            trainer, f"Expected `effective_batch_size` to be a multiple of the {world_size} processes, got {total}."
        )
    if not bounds.may_accumulate:
        raise misconfiguration(
            trainer,
            "Expected to set the accumulation for `effective_batch_size`, got a GradientAccumulationScheduler that sets"
            " it too, or a module that steps by hand. Use one of them.",
        )
    if bounds.samples is not None and total > bounds.samples * world_size:
        raise misconfiguration(
            trainer,
            f"Expected `effective_batch_size` to be at most the {bounds.samples * world_size} samples of an epoch, got"
            f" {total}: an optimizer step ends with the epoch.",
        )
    lowest, highest, share = bounds.wanted.lowest, bounds.highest[0], total // world_size
    if not any(share % size == 0 for size in range(lowest, highest + 1)):
        raise misconfiguration(
            trainer,
            f"Expected {share} samples of a process to be a multiple of a batch from {lowest} to {highest}, but none"
            " divides it. Choose an `effective_batch_size` with more divisors, such as a power of two.",
        )
