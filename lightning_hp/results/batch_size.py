"""The result of a search for the batch size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from lightning_hp.functional.batch_size.memory import MIB
from lightning_hp.functional.checks import check_bool, check_choice, check_int, check_number, check_str
from lightning_hp.results.fields import check_items, from_json, optional, set_fields, to_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class BatchTrial:
    """One batch size that was tried.

    Attributes:
        batch_size: Samples in a batch of one process, >= 1.
        fitted: Whether the trial ran within the memory limit.
        samples_per_second: Median throughput over the steps of the trial, summed over all processes; ``None`` if the
            trial did not run.
        peak_bytes: Largest memory of a process during the trial, in bytes above what was in use before it; ``None`` if
            unknown.
        reason: Why the trial did not fit; ``None`` if it did.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a number is out of its range.

    Example:
        >>> BatchTrial(batch_size=64, fitted=True, samples_per_second=471.0).fitted
        True

    """

    batch_size: int
    fitted: bool
    samples_per_second: float | None = None
    peak_bytes: int | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        set_fields(
            self,
            batch_size=check_int("batch_size", self.batch_size, 1),
            fitted=check_bool("fitted", self.fitted),
            samples_per_second=optional(
                check_number, "samples_per_second", self.samples_per_second, minimum=0, finite=False
            ),
            peak_bytes=optional(check_int, "peak_bytes", self.peak_bytes, 0),
            reason=optional(check_str, "reason", self.reason),
        )


@dataclass(frozen=True)
class BatchBound:
    """A lower or upper bound of the batch size.

    Attributes:
        name: What sets the bound: ``"memory"``, ``"classes"``, ``"throughput"``, ``"data"``, ``"steps"`` or
            ``"max_val"``; or
            ``"noise scale"``, which decides nothing.
        kind: ``"at most"``, ``"at least"``, ``"fast from"`` for the throughput, or ``"advised up to"``.
        size: The bound, as the batch size of one process; ``None`` if there is no bound.
        detail: Where the bound comes from, for a reader.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If ``kind`` is unknown or ``size`` is negative.

    Example:
        >>> print(BatchBound("data", "at most", 400, "4000 samples, 10 steps an epoch"))
        data: at most 400 (4000 samples, 10 steps an epoch)

    """

    name: str
    kind: str
    size: int | None
    detail: str

    def __post_init__(self) -> None:
        set_fields(
            self,
            name=check_str("name", self.name),
            kind=check_choice("kind", self.kind, ("at most", "at least", "fast from", "advised up to")),
            size=optional(check_int, "size", self.size, 0),
            detail=check_str("detail", self.detail),
        )

    def __str__(self) -> str:
        return f"{self.name}: {self.kind} {self.size} ({self.detail})" if self.size else f"{self.name}: {self.detail}"


@dataclass(frozen=True)
class BatchSizeResult:
    """The result of a search for the batch size: what was found, why, and the learning rate scaled to it.

    Attributes:
        batch_size: The batch size *found*: samples in a batch of one process (the micro-batch), >= 1.
        accumulate_grad_batches: Batches per optimizer step at that size, >= 1.
        world_size: Number of processes of the training, >= 1.
        decided_by: Name of the bound that decided, or ``"effective_batch_size"``.
        bounds: All bounds.
        trials: All sizes that were tried, in order.
        batch_size_before: Batch size before the search, >= 1.
        batch_size_used: Batch size *used* for the training, >= 1.
        accumulate_before: Batches per optimizer step before the search, >= 1.
        base_batch_size: Effective batch size that ``lr_before`` was chosen for, >= 1.
        lr_before: Learning rate of the model before the search; ``None`` if there is none to scale.
        lr_scaled: Learning rate *scaled* to the effective batch size found; ``None`` if it is not scaled.
        lr_used: Learning rate *used* for the training; ``None`` if the search does not set one.
        lr_rule: Scaling rule, ``"linear"`` or ``"sqrt"``; ``None`` if the rate is not scaled.
        warmup_steps: Optimizer steps of warm-up; 0 for none.
        min_per_class: Samples of each class that an optimizer step should contain.
        class_probability: Upper bound, from 0 to 1, of the probability that an optimizer step contains at least
            ``min_per_class`` samples of every class, exact for 0 and 1; ``None`` if unknown.
        notes: Advice, one sentence each.
        num_steps: Optimizer steps of the rehearsal.
        num_loader_builds: How often the search built the data loaders.
        seconds: Duration of the search.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a number is out of its range or ``lr_rule`` is unknown.

    Note:
        Holds numbers and strings only, neither the model nor the Trainer: it can be pickled and copied.
        [`BatchSizeScaler`][lightning_hp.BatchSizeScaler] builds it.

    Example:
        >>> result = BatchSizeResult(
        ...     batch_size=64, accumulate_grad_batches=1, world_size=1, decided_by="throughput",
        ...     bounds=(BatchBound("throughput", "fast from", 64, "within 5 % of 476 samples/s"),),
        ...     trials=(BatchTrial(64, True, 471.0), BatchTrial(128, True, 476.0)),
        ...     batch_size_before=32, batch_size_used=64, accumulate_before=1, base_batch_size=32,
        ...     lr_before=0.1, lr_scaled=0.2, lr_used=0.2, lr_rule="linear")
        >>> print(result)
        Batch size 64 (before 32), decided by throughput
          throughput: fast from 64 (within 5 % of 476 samples/s)
          learning rate scaled: 0.1 x 2 (linear) = 0.2
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

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "accumulate_grad_batches",
            "world_size",
            "batch_size_before",
            "batch_size_used",
            "accumulate_before",
            "base_batch_size",
        ):
            set_fields(self, **{name: check_int(name, getattr(self, name), 1)})
        for name in ("warmup_steps", "min_per_class", "num_steps", "num_loader_builds"):
            set_fields(self, **{name: check_int(name, getattr(self, name), 0)})
        for name in ("lr_before", "lr_scaled", "lr_used"):
            set_fields(self, **{name: optional(check_number, name, getattr(self, name))})
        set_fields(
            self,
            decided_by=check_str("decided_by", self.decided_by),
            bounds=check_items("bounds", self.bounds, BatchBound),
            trials=check_items("trials", self.trials, BatchTrial),
            lr_rule=optional(check_choice, "lr_rule", self.lr_rule, ("linear", "sqrt")),
            class_probability=optional(check_number, "class_probability", self.class_probability, minimum=0, maximum=1),
            notes=check_items("notes", self.notes, str),
            seconds=check_number("seconds", self.seconds, minimum=0),
        )

    @property
    def effective_batch_size(self) -> int:
        """Samples per optimizer step: micro-batch x accumulation x processes."""
        return self.batch_size * self.accumulate_grad_batches * self.world_size

    @property
    def k(self) -> float:
        """Ratio of the effective batch size to ``base_batch_size``: the k of the scaling rules."""
        return self.effective_batch_size / self.base_batch_size

    def with_used(self, batch_size: int, lr: float | None) -> BatchSizeResult:
        """Returns a copy with the batch size and the learning rate that the training uses.

        Args:
            batch_size: Batch size of one process, >= 1.
            lr: Learning rate; ``None`` if the search does not set one.

        Returns:
            The copy.

        Raises:
            TypeError: If an argument is no number.
            ValueError: If an argument is out of its range.

        """
        return replace(
            self, batch_size_used=check_int("batch_size", batch_size, 1), lr_used=optional(check_number, "lr", lr)
        )

    def plot(self, axes: Iterable[Axes] | None = None) -> tuple[Axes, Axes]:
        """Plots the search with [`plot_batch_size`][lightning_hp.plotting.plot_batch_size].

        Args:
            axes: Two Axes, for the throughput and the memory; ``None`` creates a figure.

        Returns:
            The two Axes.

        """
        from lightning_hp.plotting import plot_batch_size

        return plot_batch_size(self, axes)

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Returns header and rows for a logger: the batch size, all bounds, the learning rate, all notes."""
        rows: list[list[Any]] = [
            ["found", self.batch_size, f"decided by {self.decided_by}"],
            ["before", self.batch_size_before, "before the search"],
            ["used", self.batch_size_used, "used for the training"],
            ["effective", self.effective_batch_size, self._product()],
        ]
        rows += [[f"{bound.name}, {bound.kind}", bound.size, bound.detail] for bound in self.bounds]
        if self.lr_before is not None:
            rows.append(["learning rate before", self.lr_before, f"for {self.base_batch_size} samples per step"])
            rows.append(["learning rate scaled", self.lr_scaled, f"{self.lr_rule or 'not'} scaled, k = {self.k:.3g}"])
            rows.append(["learning rate used", self.lr_used, "used for the training"])
        rows += [["note", None, note] for note in self.notes]
        return ["", "value", "why"], rows

    def trials_table(self) -> tuple[list[str], list[list[Any]]]:
        """Returns header and rows for a logger: all sizes that were tried."""
        rows = [
            [
                trial.batch_size,
                "yes" if trial.fitted else f"no: {trial.reason}",
                trial.samples_per_second,
                None if trial.peak_bytes is None else trial.peak_bytes / MIB,
            ]
            for trial in self.trials
        ]
        return ["batch size", "fits", "samples/s", "peak MiB"], rows

    def to_dict(self) -> dict[str, Any]:
        """Converts the result to JSON types: lists, dicts, numbers, strings and ``None``."""
        values: dict[str, Any] = to_json(asdict(self))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BatchSizeResult:
        """Builds a result from what ``to_dict`` returned; unknown entries are left out.

        Args:
            values: The names and values of the fields, in JSON types.

        Returns:
            The result.

        Raises:
            TypeError: If ``values`` or an entry is of the wrong type.
            ValueError: If an entry is missing or out of its range.

        """
        known = from_json(cls, values)
        for name, kind in (("bounds", BatchBound), ("trials", BatchTrial)):
            items = check_items(name, known[name], Mapping)  # type: ignore[type-abstract]
            known[name] = tuple(kind(**from_json(kind, item)) for item in items)
        return cls(**known)

    def __str__(self) -> str:
        lines = [f"Batch size {self.batch_size} (before {self.batch_size_before}), decided by {self.decided_by}"]
        if self.effective_batch_size != self.batch_size:
            lines.append(f"  {self.effective_batch_size} samples per optimizer step: {self._product()}")
        lines += [f"  {bound}" for bound in self.bounds]
        if self.class_probability is not None:
            lines.append(
                f"  a step contains every class {self.min_per_class} times or more with probability"
                f" {_format_upper_bound(self.class_probability)}"
            )
        if self.lr_scaled is not None and self.lr_before is not None:
            factor = self.lr_scaled / self.lr_before if self.lr_before else 1.0
            scaled = "scaled" if self.lr_used in (None, self.lr_scaled) else "would be scaled"
            lines.append(
                f"  learning rate {scaled}: {self.lr_before:.3g} x {factor:.3g} ({self.lr_rule}) = {self.lr_scaled:.3g}"
            )
        if self.warmup_steps:
            lines.append(f"  warm-up over {self.warmup_steps} optimizer steps")
        lines += [f"  {note}" for note in self.notes]
        lines.append(f"  {self.num_steps} steps in {self.seconds:.1f} s")
        return "\n".join(lines)

    def _product(self) -> str:
        return f"{self.batch_size} x {self.accumulate_grad_batches} batches x {self.world_size} processes"


def _format_upper_bound(probability: float) -> str:
    """An upper bound as text: three digits, an exponent below 0.001, and 0 and 1 for exact values only."""
    if probability == 0:
        return "0"
    if math.isclose(probability, 1, rel_tol=1e-12):
        return "1"
    if probability >= 0.9995:  # the bound is tight here
        return "> 0.999"
    return f"at most {probability:.3f}" if probability >= 0.001 else f"at most {probability:.0e}"
