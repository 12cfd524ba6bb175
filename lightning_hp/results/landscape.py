"""What a loss landscape is: surfaces around a model, the path of its training, curvature, and the rise of the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_hp.functional.checks import (
    check_array,
    check_choice,
    check_int,
    check_iterable,
    check_number,
    check_options,
    check_str,
    wrong_value,
)
from lightning_hp.reporting.loggers import cell_text
from lightning_hp.results.fields import check_items, from_json, none_to_nan, optional, set_fields, to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DIRECTIONS_IN_WORDS = {
    "random": "random directions, normalised by filter",
    "trajectory": "the plane of the training",
    "hessian": "leading eigenvectors of the Hessian",
}
_SURFACES = "one or more arrays of losses of shape (num_y, num_x)"
_ROUNDING = 1e-9  # how far from 0 the coordinate of the model may be, relative to the largest
_PATH = "coordinates of shape (num_checkpoints, 2), or None"


@dataclass(frozen=True)
class Rise:
    """How much the loss rises at a distance from the weights.

    Attributes:
        radius: The distance, in the unit of the weights.
        ascent: The rise after one step along the gradient, as of SAM.
        mean: The mean rise in random directions.
        worst: The largest rise in random directions.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If the radius is not finite and positive.

    """

    radius: float
    ascent: float
    mean: float
    worst: float

    def __post_init__(self) -> None:
        rises = {name: _numbers(name, getattr(self, name), "a number", ()) for name in ("ascent", "mean", "worst")}
        set_fields(
            self,
            radius=check_number("radius", self.radius, above=0),
            **{name: float(value) for name, value in rises.items()},
        )


@dataclass(frozen=True, eq=False)
class LandscapeResult:
    """The loss around the weights of a model.

    Attributes:
        x: Coordinates along the first direction, shape ``(num_x,)``, rising; one of them is 0, the model itself.
        y: Coordinates along the second direction, shape ``(num_y,)``, likewise; ``[0]`` for a line.
        surfaces: The losses, shape ``(num_y, num_x)``, one array for each pair of directions.
        directions: ``"random"``, ``"trajectory"`` or ``"hessian"``.
        batch_norm: ``"running"`` or ``"batch"``: the statistics that normalisation layers used.
        num_samples: Number of samples that the loss is a mean over.
        seed: Seed of the random directions.
        data: A fingerprint of the samples.
        loss_name: Which loss it is: ``"training_step"``, or the name of a function.
        path: Where the training was in the plane, shape ``(num_checkpoints, 2)``; the last one is the model. ``None``
            unless the directions are those of the trajectory.
        explained_variance: The share of both directions in the variance of the path, or ``None``.
        eigenvalues: Leading eigenvalues of the Hessian, falling; ``None`` if they were not computed.
        rises: The rise of the loss at some distances.
        epoch: The epoch after which it was measured; ``None`` for a model without a training.
        step: The optimizer step after which it was measured, or ``None``.
        seconds: Duration of the measurement.
        notes: What the numbers do not say.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If shapes do not fit, or a value is out of its range.

    Example:
        >>> result = LandscapeResult([-1, 0, 1], [0], [[[2.0, 1.0, 2.5]]], "random", "running", num_samples=64, seed=0)
        >>> result.loss
        1.0
        >>> LandscapeResult.from_dict(result.to_dict()).loss
        1.0

    """

    x: NDArray[np.float64] = field(repr=False)
    y: NDArray[np.float64] = field(repr=False)
    surfaces: tuple[NDArray[np.float64], ...] = field(repr=False)
    directions: str
    batch_norm: str
    num_samples: int
    seed: int
    data: str = ""
    loss_name: str = ""
    path: NDArray[np.float64] | None = field(default=None, repr=False)
    explained_variance: tuple[float, float] | None = None
    eigenvalues: tuple[float, ...] | None = None
    rises: tuple[Rise, ...] = ()
    epoch: int | None = None
    step: int | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        x, y = (_coordinates(name, getattr(self, name)) for name in ("x", "y"))
        shape = (len(y), len(x))
        surfaces = check_iterable("surfaces", self.surfaces, _SURFACES)
        if not surfaces:
            wrong_value("surfaces", _SURFACES, self.surfaces)
        explained = self.explained_variance
        set_fields(
            self,
            x=x,
            y=y,
            surfaces=tuple(_numbers("surfaces", s, f"arrays of losses of shape {shape}", shape) for s in surfaces),
            directions=check_choice("directions", self.directions, _DIRECTIONS_IN_WORDS),
            batch_norm=check_choice("batch_norm", self.batch_norm, ("running", "batch")),
            num_samples=check_int("num_samples", self.num_samples, 1),
            seed=check_int("seed", self.seed, 0),
            data=check_str("data", self.data),
            loss_name=check_str("loss_name", self.loss_name),
            path=None if self.path is None else _numbers("path", self.path, _PATH, (None, 2)),
            explained_variance=None
            if explained is None
            else tuple(_numbers("explained_variance", explained, "two numbers, or None", (2,)).tolist()),
            eigenvalues=None
            if self.eigenvalues is None
            else tuple(_numbers("eigenvalues", self.eigenvalues, "a list of numbers, or None", (None,)).tolist()),
            rises=check_items("rises", self.rises, Rise),
            epoch=optional(check_int, "epoch", self.epoch, 0),
            step=optional(check_int, "step", self.step, 0),
            seconds=check_number("seconds", self.seconds, minimum=0),
            notes=check_items("notes", self.notes, str),
        )

    @property
    def center(self) -> tuple[int, int]:
        """The row and the column of the model itself."""
        return int(np.abs(self.y).argmin()), int(np.abs(self.x).argmin())

    @property
    def is_surface(self) -> bool:
        """Whether there is more than one coordinate in both directions."""
        return 1 not in self.surfaces[0].shape

    @property
    def loss(self) -> float:
        """The loss of the model itself."""
        return float(self.surfaces[0][self.center])

    @property
    def directions_in_words(self) -> str:
        """What the directions are."""
        return _DIRECTIONS_IN_WORDS[self.directions]

    def numbers(self) -> dict[str, float]:
        """All numbers by name: the loss, eigenvalues, and the rise at each radius."""
        named = {"loss": self.loss}
        for number, value in enumerate(self.eigenvalues or ()):
            named["eigenvalue" if not number else f"eigenvalue_{number + 1}"] = value
        for rise in self.rises:
            named |= {
                f"rise_ascent_{rise.radius:g}": rise.ascent,
                f"rise_mean_{rise.radius:g}": rise.mean,
                f"rise_worst_{rise.radius:g}": rise.worst,
            }
        return named

    def to_dict(self) -> dict[str, Any]:
        """Converts the result to JSON types: arrays to lists, numbers that are not finite to ``None``."""
        values: dict[str, Any] = to_json(asdict(self))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LandscapeResult:
        """Builds a result from what ``to_dict`` returned; unknown entries are left out.

        Args:
            values: The names and values of the fields, in JSON types. A number that was not finite is NaN then.

        Returns:
            The result.

        Raises:
            TypeError: If ``values`` or an entry is of the wrong type.
            ValueError: If an entry is missing or out of its range.

        """
        known = from_json(cls, values)
        for name in ("surfaces", "path", "explained_variance", "eigenvalues"):
            if known.get(name) is not None:
                known[name] = none_to_nan(known[name])
        if "rises" in known:
            items = check_items("rises", known["rises"], Mapping)  # type: ignore[type-abstract]
            rows = [from_json(Rise, item) for item in items]
            known["rises"] = tuple(Rise(**{name: none_to_nan(row[name]) for name in row}) for row in rows)
        return cls(**known)

    def plot(self) -> Figure:
        """Draws the surface as contours and in three dimensions; see :func:`lightning_hp.plotting.plot_landscape`.

        With one coordinate in a direction the loss is drawn as a line.
        """
        from lightning_hp.plotting.landscape import plot_landscape

        return plot_landscape(self)

    def to_html(self, path: str | Path | None = None) -> str:
        """The surface as a page that can be rotated, which needs no network; written to a file if a path is given.

        Raises:
            ModuleNotFoundError: If plotly is missing: ``pip install 'lightning-hp[plotly]'``.
            ValueError: If there is only one coordinate in a direction.

        """
        from lightning_hp.plotting.landscape_html import landscape_html

        return _written(landscape_html({"": self}), path)

    def __str__(self) -> str:
        where = "" if self.step is None else f" after step {self.step}"
        shape = " x ".join(map(str, (len(self.surfaces), *self.surfaces[0].shape)))
        kind = self.directions_in_words
        head = f"Loss landscape{where}: {shape} points, {kind}, {self.num_samples} samples, {self.seconds:.1f} s"
        lines = [head, f"  loss {self.loss:.4g}"]
        if self.eigenvalues:
            shown = ", ".join(f"{value:.4g}" for value in self.eigenvalues)
            lines.append(f"  leading eigenvalue{'s' if len(self.eigenvalues) > 1 else ''} of the Hessian {shown}")
        for rise in self.rises:
            random = f"random directions {rise.mean:.4g} on average, {rise.worst:.4g} at worst"
            lines.append(f"  rise at distance {rise.radius:g}: {rise.ascent:.4g} along the gradient; {random}")
        if self.explained_variance is not None:
            lines.append(f"  the plane holds {sum(self.explained_variance):.0%} of the variance of the path")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


@dataclass(frozen=True, eq=False)
class LandscapeComparison:
    """The landscapes of several models: same random draws, radius, samples and statistics, and one colour scale.

    Attributes:
        results: The landscape of each model, by its name.
        metrics: Further numbers of each model, by its name: such as the accuracy on test data.

    """

    results: Mapping[str, LandscapeResult]
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """The header, which names the models, and one row per number; ``None`` where a model has none."""
        columns = [{**self.metrics.get(name, {}), **result.numbers()} for name, result in self.results.items()]
        quantities = list(dict.fromkeys(quantity for column in columns for quantity in column))
        rows = [[quantity, *(column.get(quantity) for column in columns)] for quantity in quantities]
        return ["quantity", *self.results], rows

    def to_dict(self) -> dict[str, Any]:
        """Converts the comparison to JSON types, as :meth:`LandscapeResult.to_dict` does each result."""
        return {
            "results": {name: result.to_dict() for name, result in self.results.items()},
            "metrics": to_json(self.metrics),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LandscapeComparison:
        """Builds a comparison from what ``to_dict`` returned; unknown entries are left out.

        Args:
            values: The names and values of the fields, in JSON types. A number that was not finite is NaN then.

        Returns:
            The comparison.

        Raises:
            TypeError: If ``values`` or an entry is of the wrong type.
            ValueError: If an entry is missing or out of its range.

        """
        known = from_json(cls, values)
        results = check_options("results", known["results"], "a dict of the landscape of each model, by its name")
        metrics = check_options("metrics", known.get("metrics"), "a dict of the numbers of each model, by its name")
        return cls(
            {name: LandscapeResult.from_dict(result) for name, result in results.items()},
            {name: _metrics(f"metrics[{name!r}]", its) for name, its in metrics.items()},
        )

    def plot(self) -> Figure:
        """Draws all landscapes side by side; see :func:`lightning_hp.plotting.plot_landscapes`."""
        from lightning_hp.plotting.landscape import plot_landscapes

        return plot_landscapes(self)

    def to_html(self, path: str | Path | None = None) -> str:
        """All surfaces in one page that can be rotated; written to a file if a path is given.

        Raises:
            ModuleNotFoundError: If plotly is missing: ``pip install 'lightning-hp[plotly]'``.
            ValueError: If there is only one coordinate in a direction.

        """
        from lightning_hp.plotting.landscape_html import landscape_html

        return _written(landscape_html(self.results), path)

    def __str__(self) -> str:
        header, rows = self.table()
        cells = [header, *([cell_text(entry) for entry in row] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for name, *others in cells:
            right = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
            lines.append("  ".join([name.ljust(widths[0]), *right]))
        return "\n".join(lines)


def _metrics(name: str, values: Any) -> dict[str, float]:
    found = check_options(name, values, "a dict of numbers")
    return {
        quantity: math.nan if value is None else check_number(f"{name}[{quantity!r}]", value, finite=False)
        for quantity, value in found.items()
    }


def _numbers(name: str, values: Any, what: str, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    """Numbers of a shape, where ``None`` stands for any length; they need not be finite."""
    array = check_array(name, values, what)
    if array.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        wrong_value(name, what, values)
    return array


def _coordinates(name: str, values: Any) -> NDArray[np.float64]:
    what = f"one or more coordinates, finite numbers of shape (num_{name},) that rise and contain 0, the model itself"
    coordinates = _numbers(name, values, what, (None,))
    if not len(coordinates) or not np.isfinite(coordinates).all() or (np.diff(coordinates) <= 0).any():
        wrong_value(name, what, values)
    sizes = np.abs(coordinates)
    if sizes.min() > _ROUNDING * sizes.max():
        wrong_value(name, what, values)
    return coordinates


def _written(text: str, path: str | Path | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text
