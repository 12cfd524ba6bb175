"""What a loss landscape is: surfaces around a model, the path of its training, curvature, and the rise of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_hp.reporting.loggers import cell_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DIRECTIONS_IN_WORDS = {
    "random": "random directions, normalised by filter",
    "trajectory": "the plane of the training",
    "hessian": "leading eigenvectors of the Hessian",
}


@dataclass(frozen=True)
class Rise:
    """How much the loss rises at a distance from the weights.

    Attributes:
        radius: The distance, in the unit of the weights.
        ascent: The rise after one step along the gradient, as of SAM.
        mean: The mean rise in random directions.
        worst: The largest rise in random directions.

    """

    radius: float
    ascent: float
    mean: float
    worst: float


@dataclass(frozen=True, eq=False)
class LandscapeResult:
    """The loss around the weights of a model.

    Attributes:
        x: Coordinates along the first direction, shape ``(num_x,)``; one of them is 0, the model itself.
        y: Coordinates along the second direction, shape ``(num_y,)``.
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

    @property
    def center(self) -> tuple[int, int]:
        """The row and the column of the model itself."""
        return int(np.abs(self.y).argmin()), int(np.abs(self.x).argmin())

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

    def plot(self) -> Figure:
        """Draws the surface as contours and in three dimensions; see :func:`lightning_hp.plotting.plot_landscape`."""
        from lightning_hp.plotting.landscape import plot_landscape

        return plot_landscape(self)

    def to_html(self, path: str | Path | None = None) -> str:
        """The surface as a page that can be rotated, which needs no network; written to a file if a path is given.

        Raises:
            ModuleNotFoundError: If plotly is missing: ``pip install 'lightning-hp[plotly]'``.

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

    def plot(self) -> Figure:
        """Draws all landscapes side by side; see :func:`lightning_hp.plotting.plot_landscapes`."""
        from lightning_hp.plotting.landscape import plot_landscapes

        return plot_landscapes(self)

    def to_html(self, path: str | Path | None = None) -> str:
        """All surfaces in one page that can be rotated; written to a file if a path is given.

        Raises:
            ModuleNotFoundError: If plotly is missing: ``pip install 'lightning-hp[plotly]'``.

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


def _written(text: str, path: str | Path | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text
