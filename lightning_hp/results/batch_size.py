"""The result of a search for the batch size, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

_MIB = 2**20


@dataclass(frozen=True)
class BatchTrial:
    """One batch size that was tried.

    Attributes:
        batch_size: Samples in a batch of one process.
        fitted: Whether it ran within the memory there is.
        samples_per_second: Throughput of all processes together, the median of its steps; ``None`` if it did not run.
        peak_bytes: The most memory that it took on a process, above what was in use before; ``None`` if not known.
        reason: Why it did not fit, or ``None``.

    Costs nothing.

    Source: measurement.

    Example:
        >>> BatchTrial(batch_size=64, fitted=True, samples_per_second=471.0).fitted
        True

    """

    batch_size: int
    fitted: bool
    samples_per_second: float | None = None
    peak_bytes: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class BatchBound:
    """What speaks for a batch size, or against a larger one.

    Attributes:
        name: ``"memory"``, ``"classes"``, ``"throughput"``, ``"data"`` or ``"max_val"``.
        kind: ``"at most"``, ``"at least"`` or, for the throughput, ``"fast from"``.
        size: The batch size of one process; ``None`` where there is no bound.
        detail: Where it comes from, in words.

    Costs nothing.

    Source: the search.

    Example:
        >>> print(BatchBound("data", "at most", 400, "4000 samples, 10 steps an epoch"))
        data: at most 400 (4000 samples, 10 steps an epoch)

    """

    name: str
    kind: str
    size: int | None
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.kind} {self.size} ({self.detail})" if self.size else f"{self.name}: {self.detail}"


@dataclass(frozen=True)
class BatchSizeResult:
    """Which batch size was found, why, and what it makes of the learning rate.

    Attributes:
        batch_size: The size that was *found*: samples in a batch of one process, the micro-batch.
        accumulate_grad_batches: Batches for one optimizer step at that size.
        world_size: Processes that train together.
        decided_by: Name of the bound that decided.
        bounds: Every bound.
        trials: Every size that was tried, in order.
        batch_size_before: The size that the training came with.
        batch_size_used: The size that it trains with.
        accumulate_before: Its batches for one optimizer step.
        base_batch_size: The effective batch size that the learning rate was right for.
        lr_before: The learning rate that the model came with, or ``None`` where there is none to scale.
        lr_scaled: The learning rate *scaled* to the effective batch size found, or ``None`` if it is not scaled.
        lr_used: The learning rate that it trains with.
        lr_rule: ``"linear"``, ``"sqrt"`` or ``None``.
        warmup_steps: Optimizer steps of warm-up, 0 for none.
        min_per_class: How often every class is wanted.
        class_probability: The probability that an optimizer step shows every class so often; ``None`` if not known.
        notes: What to know, in sentences.
        num_steps: Optimizer steps that were rehearsed.
        num_loader_builds: Times that loaders were built for it.
        seconds: How long that took.

    Costs nothing. Does not hold the model or the Trainer: it can be pickled, copied and kept.

    Source: the search, see [`BatchSizeScaler`][lightning_hp.BatchSizeScaler].

    Example:
        >>> result = BatchSizeResult(
        ...     batch_size=64, accumulate_grad_batches=1, world_size=1, decided_by="throughput",
        ...     bounds=(BatchBound("throughput", "fast from", 64, "within 5 % of 476 samples/s"),),
        ...     trials=(BatchTrial(64, True, 471.0), BatchTrial(128, True, 476.0)),
        ...     batch_size_before=32, batch_size_used=64, accumulate_before=1, base_batch_size=32,
        ...     lr_before=0.1, lr_scaled=0.2, lr_used=0.2, lr_rule="linear")
        >>> print(result)
        Batch size 64 (was 32): throughput decided
          throughput: fast from 64 (within 5 % of 476 samples/s)
          learning rate 0.1 x 2 (linear) = 0.2
          0 steps in 0.0 s

    """

    batch_size: int
    accumulate_grad_batches: int
    world_size: int
    decided_by: str
    bounds: tuple[BatchBound, ...]
    trials: tuple[BatchTrial, ...]
    batch_size_before: int
    batch_size_used: int
    accumulate_before: int
    base_batch_size: int
    lr_before: float | None = None
    lr_scaled: float | None = None
    lr_used: float | None = None
    lr_rule: str | None = None
    warmup_steps: int = 0
    min_per_class: int = 0
    class_probability: float | None = None
    notes: tuple[str, ...] = ()
    num_steps: int = 0
    num_loader_builds: int = 0
    seconds: float = 0.0

    @property
    def effective_batch_size(self) -> int:
        """Samples for one optimizer step: micro-batch x accumulation x processes."""
        return self.batch_size * self.accumulate_grad_batches * self.world_size

    @property
    def k(self) -> float:
        """How many times the effective batch has grown: the k of the scaling rules."""
        return self.effective_batch_size / self.base_batch_size

    def used(self, batch_size: int, lr: float | None) -> BatchSizeResult:
        """The same result, with what is trained with from now on."""
        return replace(self, batch_size_used=int(batch_size), lr_used=lr)

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows for a logger: what was found, every bound, what became of the learning rate."""
        rows: list[list[Any]] = [
            ["found", self.batch_size, f"{self.decided_by} decided"],
            ["before", self.batch_size_before, "what the training came with"],
            ["used", self.batch_size_used, "what it trains with"],
            ["effective", self.effective_batch_size, self._product()],
        ]
        rows += [[f"{bound.name}, {bound.kind}", bound.size, bound.detail] for bound in self.bounds]
        if self.lr_before is not None:
            rows.append(["learning rate before", self.lr_before, f"right for {self.base_batch_size} samples a step"])
            rows.append(["learning rate scaled", self.lr_scaled, f"{self.lr_rule or 'not'} scaled, k = {self.k:.3g}"])
            rows.append(["learning rate used", self.lr_used, "what it trains with"])
        rows += [["note", None, note] for note in self.notes]
        return ["", "value", "why"], rows

    def trials_table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows for a logger: every size that was tried."""
        rows = [
            [
                trial.batch_size,
                "yes" if trial.fitted else f"no: {trial.reason}",
                trial.samples_per_second,
                None if trial.peak_bytes is None else trial.peak_bytes / _MIB,
            ]
            for trial in self.trials
        ]
        return ["batch size", "fits", "samples/s", "peak MiB"], rows

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings that JSON can hold."""
        return {**asdict(self), "bounds": [*map(asdict, self.bounds)], "trials": [*map(asdict, self.trials)]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BatchSizeResult:
        """The result again, from what :meth:`to_dict` gave; unknown entries are left out."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        known["bounds"] = tuple(BatchBound(**bound) for bound in known["bounds"])
        known["trials"] = tuple(BatchTrial(**trial) for trial in known["trials"])
        known["notes"] = tuple(known["notes"])
        return cls(**known)

    def __str__(self) -> str:
        lines = [f"Batch size {self.batch_size} (was {self.batch_size_before}): {self.decided_by} decided"]
        if self.effective_batch_size != self.batch_size:
            lines.append(f"  {self.effective_batch_size} samples for one optimizer step: {self._product()}")
        lines += [f"  {bound}" for bound in self.bounds]
        if self.class_probability is not None:
            lines.append(
                f"  a step shows every class {self.min_per_class} times or more with probability"
                f" {_probability(self.class_probability)}"
            )
        if self.lr_scaled is not None and self.lr_before is not None:
            factor = self.lr_scaled / self.lr_before if self.lr_before else 1.0
            lines.append(f"  learning rate {self.lr_before:.3g} x {factor:.3g} ({self.lr_rule}) = {self.lr_scaled:.3g}")
        lines += [f"  {note}" for note in self.notes]
        lines.append(f"  {self.num_steps} steps in {self.seconds:.1f} s")
        return "\n".join(lines)

    def _product(self) -> str:
        return f"{self.batch_size} x {self.accumulate_grad_batches} batches x {self.world_size} processes"


def _probability(probability: float) -> str:
    """Three digits where they mean something, and never a 1 that is none."""
    if probability == 0 or probability >= 0.9995:
        return "0" if probability == 0 else "1" if math.isclose(probability, 1, rel_tol=1e-12) else "> 0.999"
    return f"{probability:.3f}" if probability >= 0.001 else f"{probability:.0e}"
