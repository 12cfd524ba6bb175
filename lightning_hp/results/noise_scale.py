"""The gradient noise scale along a training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lightning_hp.functional.batch_size.noise_scale import LINEAR_SHARE
from lightning_hp.functional.checks import (
    check_choice,
    check_int,
    check_iterable,
    check_number,
    check_str,
    wrong_value,
)
from lightning_hp.results.fields import check_items, from_json, optional, set_fields, to_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SOURCES = ("accumulation", "processes", "rehearsal")


@dataclass(frozen=True)
class NoiseScaleResult:
    """The gradient noise scale along a training, in samples.

    Attributes:
        steps: Optimizer steps after which it was read, ascending.
        noise_scales: The estimates, >= 0; NaN where it was not known.
        lows: Lower ends of the 95 % intervals, >= 0.
        highs: Upper ends; infinite where there is none.
        source: The two gradients: ``"accumulation"``, micro-batches and their mean; ``"processes"``, those of each
            process of DDP and their mean; ``"rehearsal"``, accumulated steps that were undone.
        batch_size: Mean number of samples of an optimizer step of the training, rounded, >= 1.
        num_observations: Steps that were measured.
        reason: Why the last estimate is not known, a sentence; ``None`` if it is.
        notes: What limits the result, a sentence each.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the lengths differ, or a value is out of its range.

    Note:
        Read the noise scale as an order of magnitude, and as an upper one: the critical batch size, beyond which larger
        batches save few steps, was as large in one of seven measured trainings, and 2.3 to 9 times smaller in the
        others.

    Example:
        >>> print(NoiseScaleResult((100, 200), (80.0, 300.0), (60.0, 210.0), (110.0, 450.0), "accumulation", 64, 200))
        Gradient noise scale 300 samples (210 to 450) after 200 steps, between 80 and 300 along the training
          critical batch size: at most about 300 samples in a step, by its order of magnitude; the training has 64
          learning rate: scaled linearly with the batch size up to 150 samples at most

    """

    steps: tuple[int, ...]
    noise_scales: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    source: str
    batch_size: int
    num_observations: int
    reason: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows: dict[str, tuple[Any, ...]] = {
            "steps": tuple(check_int("steps", s, 0) for s in check_iterable("steps", self.steps, "steps, ints >= 0"))
        }
        for name in ("noise_scales", "lows", "highs"):
            what = "noise scales, numbers >= 0"
            values = check_iterable(name, getattr(self, name), what)
            if len(values) != len(rows["steps"]):
                wrong_value(name, f"{len(rows['steps'])} numbers, as many as `steps`", getattr(self, name))
            rows[name] = tuple(_number_or_nan(name, value, nan=name == "noise_scales") for value in values)
        if any(later <= step for step, later in zip(rows["steps"], rows["steps"][1:], strict=False)):
            wrong_value("steps", "steps in ascending order", self.steps)
        set_fields(
            self,
            **rows,
            source=check_choice("source", self.source, SOURCES),
            batch_size=check_int("batch_size", self.batch_size, 1),
            num_observations=check_int("num_observations", self.num_observations, 0),
            reason=optional(check_str, "reason", self.reason),
            notes=check_items("notes", self.notes, str),
        )

    @property
    def noise_scale(self) -> float | None:
        """The last estimate, in samples; ``None`` if it is not known."""
        last = self.noise_scales[-1] if self.noise_scales else math.nan
        return None if math.isnan(last) else last

    @property
    def interval(self) -> tuple[float, float]:
        """The interval of the last estimate; from 0 to infinity if nothing is known."""
        return (self.lows[-1], self.highs[-1]) if self.steps else (0.0, math.inf)

    @property
    def max_linear_batch_size(self) -> int | None:
        """Samples in an optimizer step up to which the learning rate may be scaled linearly, at most; or ``None``."""
        return None if self.noise_scale is None else max(1, int(LINEAR_SHARE * self.noise_scale))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plots the noise scale with [`plot_noise_scale`][lightning_hp.plotting.plot_noise_scale].

        Args:
            ax: Where to plot; ``None`` creates a figure.

        Returns:
            The Axes.

        """
        from lightning_hp.plotting import plot_noise_scale

        return plot_noise_scale(self, ax)

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Returns header and rows for a logger: the last estimate and what follows from it."""
        low, high = self.interval
        rows: list[list[Any]] = [
            ["noise scale", self.noise_scale, f"{_number(low)} to {_number(high)}" if self.steps else "not measured"],
            ["linear scaling up to", self.max_linear_batch_size, "samples in an optimizer step, at most"],
            ["batch size", self.batch_size, "samples in an optimizer step of the training, on average"],
            ["measured steps", self.num_observations, self.source],
        ]
        if self.reason is not None:
            rows.append(["note", None, self.reason])
        rows += [["note", None, note] for note in self.notes]
        return ["", "value", "meaning"], rows

    def to_dict(self) -> dict[str, Any]:
        """Converts the result to JSON types: lists, dicts, numbers, strings and ``None``."""
        values: dict[str, Any] = to_json(asdict(self))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NoiseScaleResult:
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
        for name, missing in (("noise_scales", math.nan), ("highs", math.inf)):
            row = check_iterable(name, known[name], "a list of numbers and None")
            known[name] = tuple(missing if value is None else value for value in row)
        return cls(**known)

    def __str__(self) -> str:
        low, high = self.interval
        rows = zip(self.steps, self.noise_scales, self.lows, self.highs, strict=True)
        known = [row for row in rows if not math.isnan(row[1])]
        if self.noise_scale is None:
            at_least = f"; at least {_number(low)} samples" if low > 0 else ""
            lines = [f"Gradient noise scale not known{at_least}. {self.reason or 'No step was measured.'}"]
            if known:
                step, value, low, high = known[-1]
                lines.append(f"  last known: {_interval(value, low, high)} after {step} steps")
        else:
            values = [row[1] for row in known]
            lines = [f"Gradient noise scale {_interval(self.noise_scale, low, high)} after {self.steps[-1]} steps,"]
            lines[0] += f" between {_number(min(values))} and {_number(max(values))} along the training"
            at_most = f"at most about {_number(self.noise_scale)} samples in a step, by its order of magnitude"
            lines.append(f"  critical batch size: {at_most}; the training has {self.batch_size}")
            lines.append(f"  learning rate: {self._scaling()}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def _scaling(self) -> str:
        if self.noise_scale is None or LINEAR_SHARE * self.noise_scale < 1:
            return "not scaled with the batch size, since the gradient has nearly no noise"
        return f"scaled linearly with the batch size up to {self.max_linear_batch_size} samples at most"


def _number_or_nan(name: str, value: Any, nan: bool) -> float:
    if nan and isinstance(value, float) and math.isnan(value):
        return math.nan
    return check_number(name, value, minimum=0, finite=False)


def _interval(value: float, low: float, high: float) -> str:
    return f"{_number(value)} samples ({_number(low)} to {_number(high)})"


def _number(value: float) -> str:
    """A number of samples with two digits, which is what an order of magnitude has."""
    return f"{value:.2g}" if value < 100 or math.isinf(value) else f"{float(f'{value:.2g}'):.0f}"
