"""What bounds a batch size besides memory and speed: the classes, the data, the user; and every bound in words."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from torch.nn.modules.batchnorm import _BatchNorm

from lightning_hp.batch.choice import Choice, Objective, Wanted
from lightning_hp.data import ClassCounts, NoClasses, class_counts
from lightning_hp.functional.batch_grid import RoundTo
from lightning_hp.functional.class_coverage import batch_size_for_coverage, coverage_probability
from lightning_hp.hyperparameters import BatchSize
from lightning_hp.rehearsal import EvaluationRehearsal, Rehearsal, batch_size_of, misconfiguration, samples_of
from lightning_hp.results import BatchBound

if TYPE_CHECKING:
    from lightning_hp.batch.trials import BatchTrials


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
        classes: The classes of the training set, or why they are not known.
        is_scheduled: Whether a GradientAccumulationScheduler sets the accumulation, so that nobody else may.

    """

    asked: Asked
    value: int
    accumulate: int
    world_size: int
    samples: int | None
    epochs: int | None
    least: int
    classes: ClassCounts | NoClasses
    is_scheduled: bool

    @classmethod
    def read(cls, asked: Asked, rehearsal: Rehearsal, batch_size: BatchSize) -> Bounds:
        """Reads them off the loaders of an open rehearsal.

        Raises:
            MisconfigurationException: If ``effective_batch_size`` cannot be shared out.

        """
        trainer, value = rehearsal.trainer, batch_size.value
        loaders = rehearsal.loaders
        is_scheduled = any(
            base.__name__ == "GradientAccumulationScheduler" for one in trainer.callbacks for base in type(one).__mro__
        )
        if asked.effective_batch_size is not None:
            _refuse_to_share_out(trainer, asked.effective_batch_size, is_scheduled)
        samples = _samples(loaders, value)
        if samples is not None and isinstance(trainer.limit_train_batches, float):
            samples = int(samples * trainer.limit_train_batches)
        return cls(
            asked=asked,
            value=value,
            accumulate=trainer.accumulate_grad_batches,
            world_size=trainer.world_size,
            samples=samples,
            epochs=None if trainer.max_epochs in (None, -1) else trainer.max_epochs,
            least=max(getattr(getattr(loader, "batch_sampler", None), "least_batch_size", 1) for loader in loaders),
            classes=_read_classes(asked, batch_size.first_loader, trainer.world_size),
            is_scheduled=is_scheduled,
        )

    @classmethod
    def of_evaluation(cls, asked: Asked, rehearsal: EvaluationRehearsal, batch_size: BatchSize) -> Bounds:
        """Those of a loop that does not train: memory, speed, data and user."""
        asked = replace(asked, min_per_class=0, min_steps_per_epoch=1, effective_batch_size=None)
        nothing = NoClasses("nothing is trained")
        samples = _samples(rehearsal.loaders, batch_size.value)
        return cls(asked, batch_size.value, 1, rehearsal.trainer.world_size, samples, None, 1, nothing, False)

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
        if self.share is None:
            most //= self.asked.min_steps_per_epoch * self.accumulate
            if self.epochs is not None:
                most = min(most, self.samples * self.epochs // (self.asked.min_training_steps * self.accumulate))
        return max(1, most, min(self.value, self.samples))

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
        )

    def accumulation(self, choice: Choice) -> int:
        """Batches for one optimizer step at the size that was chosen: more where memory keeps the classes apart."""
        size = choice.batch_size or 1
        if self.share is not None:
            return self.share // size
        step = size * self.accumulate * self.world_size
        if choice.limit is None or step >= self.needed or self.is_scheduled:
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
        batches = self.samples // size
        if isinstance(trainer.limit_train_batches, int):
            batches = min(batches, trainer.limit_train_batches)
        return max(1, batches // accumulate)

    def rows(self, choice: Choice, trials: BatchTrials) -> tuple[BatchBound, ...]:
        """Every bound in words."""
        bounds = [_memory(choice, trials), self._classes(), _throughput(choice, trials, self.asked.within)]
        if self.most_of_data is not None:
            steps = (
                f", {self.asked.min_steps_per_epoch} steps an epoch and {self.asked.min_training_steps} in all wanted"
            )
            detail = f"{self.samples} samples" + (steps if self.share is None else "")
            bounds.append(BatchBound("data", "at most", self.most_of_data, detail))
        bounds.append(BatchBound("max_val", "at most", self.asked.max_val, "yours"))
        return tuple(bounds)

    def notes(self, module: Any, choice: Choice, accumulate: int) -> list[str]:
        """What to know about the classes and about accumulation."""
        size = choice.batch_size or 1
        step = size * accumulate * self.world_size
        notes = []
        if step < self.needed:
            notes.append(
                f"The classes want {self.needed} samples in an optimizer step and get {step}: see the bounds, or draw"
                " balanced batches with ClassBalancedBatchSampler."
            )
        if accumulate > 1 and any(isinstance(child, _BatchNorm) for child in module.modules()):
            notes.append(f"Batch normalisation sees the micro-batch of {size}, not the {step} samples of a step.")
        if isinstance(self.classes, ClassCounts) and len(self.classes.present):
            rarest = step * float(self.classes.present.min() / self.classes.present.sum())
            if not self.classes.guaranteed and rarest < self.asked.min_per_class <= step / len(self.classes.present):
                notes.append(f"The classes are not balanced: the rarest comes {rarest:.2g} times in a step on average.")
        if self.share is not None and size < (choice.knee or 1):
            notes.append(f"{self.share} has few divisors: its largest that fits is {size}, which is slow.")
        return notes

    def _classes(self) -> BatchBound:
        counts, least = self.classes, self.asked.min_per_class
        if isinstance(counts, NoClasses):
            return BatchBound("classes", "at least", None, f"not known: {counts.reason}")
        if not least:
            return BatchBound("classes", "at least", None, "nothing asked")
        if counts.guaranteed >= least:
            return BatchBound("classes", "at least", None, f"every batch holds every class {counts.guaranteed} times")
        where = f"{len(counts.present)} classes from {counts.source}"
        how = f"{least} of each on average"
        if self.asked.coverage is not None and not counts.no_coverage:
            how = f"{least} of each with probability {self.asked.coverage:g}"
        micro = self.wanted.at_least if self.share is None else -(-self.needed // self.world_size)
        detail = f"{how}, {where}: {self.needed} samples a step" + (
            f". {counts.no_coverage}" if counts.no_coverage else ""
        )
        return BatchBound("classes", "at least", micro, detail)


def _samples(loaders: list[Any], value: int) -> int | None:
    """Samples of an epoch, by the loader that has the fewest batches: one with smaller batches needs fewer for them."""
    known = [
        samples * value // (batch_size_of(loader) or value)
        for loader in loaders
        if (samples := samples_of(loader)) is not None
    ]
    return min(known, default=None)


def _read_classes(asked: Asked, loader: Any, world_size: int) -> ClassCounts | NoClasses:
    if not asked.min_per_class:
        return NoClasses("nothing asked")
    patience = 60.0 if world_size == 1 else math.inf  # all processes have to come to the same answer
    return class_counts(loader, asked.num_classes, allow_pass=asked.read_labels, max_seconds=patience)


def _memory(choice: Choice, trials: BatchTrials) -> BatchBound:
    room = "" if trials.room == math.inf else f"{trials.room / 2**20:.0f} MiB, "
    detail = f"{room}{trials.budget.source}"
    if choice.limit is None:
        largest = trials.fitted[-1]
        above = [trial.batch_size for trial in trials.trials if not trial.fitted and trial.batch_size > largest]
        if above:
            return BatchBound("memory", "at most", None, f"between {largest} and {min(above)}, {detail}")
        peak = dict(trials.peaks).get(largest)
        taken = "fits, " if peak is None else f"takes {peak / 2**20:.0f} MiB of "
        return BatchBound("memory", "at most", None, f"not reached, {largest} {taken}{detail}")
    return BatchBound("memory", "at most", choice.limit, detail)


def _throughput(choice: Choice, trials: BatchTrials, within: float) -> BatchBound:
    best = max(sorted(speeds)[len(speeds) // 2] for speeds in trials.speeds.values())
    if not choice.is_flat:
        largest = max(trials.speeds)
        return BatchBound("throughput", "fast from", choice.knee, f"still rising at {largest}, {best:.4g} samples/s")
    return BatchBound("throughput", "fast from", choice.knee, f"within {within:.0%} of {best:.4g} samples/s")


def _refuse_to_share_out(trainer: Any, effective_batch_size: int, is_scheduled: bool) -> None:
    if effective_batch_size % trainer.world_size:
        raise misconfiguration(
            trainer,
            f"Expected `effective_batch_size` to be a multiple of the {trainer.world_size} processes, got"
            f" {effective_batch_size}.",
        )
    if is_scheduled:
        raise misconfiguration(
            trainer,
            "Expected to set the accumulation for `effective_batch_size`, got a GradientAccumulationScheduler that sets"
            " it too. Use one of them.",
        )
