"""Plots of loss landscapes: contours of the logarithm of the loss, the surface in three dimensions, the spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_hp.plotting.style import BLUE, GREY, LIGHT_BLUE, SMALL, TEXT, check_result, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_hp.results.landscape import LandscapeComparison, LandscapeResult

_COLORS = "viridis"
_NUM_LEVELS = 24


def plot_landscape(result: LandscapeResult) -> Figure:
    """Draws a landscape: contours with the path of the training, the surface, and the loss along the directions.

    With one coordinate in a direction there is no surface, and only the loss along the directions is drawn. The colours
    are the logarithm of the loss. Of several pairs of directions the first is drawn as a surface, and the
    third panel shows the spread of all.

    Args:
        result: A landscape.

    Returns:
        The figure.

    Raises:
        TypeError: If ``result`` is no LandscapeResult.

    """
    from matplotlib.figure import Figure

    check_result(result, "LandscapeResult")
    where = "" if result.epoch is None else f" after epoch {result.epoch}"
    if not result.is_surface:
        figure = Figure(figsize=(9.0, 4.8), layout="constrained")
        _draw_lines(figure.add_subplot(), {"": result})
        _set_title(figure, f"Loss landscape{where}", result)
        return figure
    figure = Figure(figsize=(14.5, 4.8), layout="constrained")
    scale = _Scale([result])
    contour, surface, line = (
        figure.add_subplot(1, 3, 1), figure.add_subplot(1, 3, 2, projection="3d"), figure.add_subplot(1, 3, 3),
    )  # fmt: skip
    drawn = _draw_contours(contour, result, scale)
    _draw_surface(surface, result, scale)
    _draw_lines(line, {"": result})
    _add_colorbar(figure, drawn, scale, [contour], "right")
    _set_title(figure, f"Loss landscape{where}", result)
    return figure


def plot_landscapes(comparison: LandscapeComparison) -> Figure:
    """Draws several landscapes side by side with one colour scale: surfaces above, contours below.

    Landscapes that are lines, with one coordinate in a direction, are drawn into one plot.

    Args:
        comparison: The landscapes.

    Returns:
        The figure.

    Raises:
        TypeError: If ``comparison`` is no LandscapeComparison.

    """
    from matplotlib.figure import Figure

    check_result(comparison, "LandscapeComparison")
    results = comparison.results
    if not all(result.is_surface for result in results.values()):
        figure = Figure(figsize=(13.0, 4.8), layout="constrained")
        _draw_lines(figure.add_subplot(1, 2, 1), results)
        _draw_rises(figure.add_subplot(1, 2, 2), results)
        _set_title(figure, "Loss landscapes", next(iter(results.values())))
        return figure
    scale = _Scale(list(results.values()))
    columns = len(results) + 1
    figure = Figure(figsize=(4.6 * columns, 8.2), layout="constrained")
    contours: list[Any] = []
    drawn = None
    for column, (name, result) in enumerate(results.items()):
        surface = figure.add_subplot(2, columns, column + 1, projection="3d")
        contour = figure.add_subplot(2, columns, columns + column + 1)
        _draw_surface(surface, result, scale)
        drawn = _draw_contours(contour, result, scale)
        numbers = {**comparison.metrics.get(name, {}), **result.numbers()}
        surface.set_title(name, color=TEXT, fontsize=13, fontweight="bold", pad=0)
        contour.set_title(_in_words(numbers, list(comparison.metrics.get(name, {}))), color=GREY, fontsize=SMALL)
        contours.append(contour)
    _draw_lines(figure.add_subplot(2, columns, columns), results)
    _draw_rises(figure.add_subplot(2, columns, 2 * columns), results)
    _add_colorbar(figure, drawn, scale, contours, "bottom")
    _set_title(figure, "Loss landscapes", next(iter(results.values())))
    return figure


class _Scale:
    """The range of the losses of all surfaces, and levels: evenly spaced in the logarithm, if all are above zero."""

    def __init__(self, results: Sequence[LandscapeResult]) -> None:
        from matplotlib.colors import LogNorm, Normalize

        values = np.concatenate([surface.ravel() for result in results for surface in result.surfaces[:1]])
        finite = values[np.isfinite(values)]
        self.is_log = len(finite) == 0 or bool((finite > 0).all())
        self.low, high = (float(finite.min()), float(finite.max())) if len(finite) else (1.0, 10.0)
        self.high = max(high, self.low + 1e-3 * abs(self.low), self.low + 1e-12)
        self.norm: Any = LogNorm(self.low, self.high) if self.is_log else Normalize(self.low, self.high)
        self.levels = self.spaced(_NUM_LEVELS)

    def spaced(self, count: int) -> NDArray[np.float64]:
        """So many numbers over the range."""
        spaced = np.geomspace if self.is_log else np.linspace
        return np.asarray(spaced(self.low, self.high, count))

    def drawable(self, surface: NDArray[np.float64]) -> NDArray[np.float64]:
        """The losses within the range; what is not finite is at its upper end."""
        shown: NDArray[np.float64] = np.where(np.isfinite(surface), surface, self.high).clip(self.low, self.high)
        return shown

    def height(self, losses: Any) -> Any:
        """How high losses are drawn."""
        return np.log10(losses) if self.is_log else losses


def _draw_contours(ax: Axes, result: LandscapeResult, scale: _Scale) -> Any:
    shown = scale.drawable(result.surfaces[0])
    drawn = ax.contourf(result.x, result.y, shown, levels=scale.levels, norm=scale.norm, cmap=_COLORS)
    ax.contour(result.x, result.y, shown, levels=scale.levels[::2], colors="white", linewidths=0.4, alpha=0.6)
    if result.path is not None:
        ax.plot(*result.path.T, "-o", color="white", markersize=2.5, linewidth=1.2)
        ax.plot(*result.path[0], "o", color="white", markersize=6)
    ax.plot(0, 0, "*", color="white", markersize=11, markeredgecolor=TEXT, markeredgewidth=0.6)
    share = [""] * 2 if result.explained_variance is None else [f" ({part:.0%})" for part in result.explained_variance]
    ax.set_xlabel(f"first direction{share[0]}", color=TEXT)
    ax.set_ylabel(f"second direction{share[1]}", color=TEXT)
    ax.tick_params(colors=GREY)
    ax.locator_params(nbins=6)
    ax.set_aspect("equal" if result.path is None else "auto")
    return drawn


def _draw_surface(ax: Any, result: LandscapeResult, scale: _Scale) -> None:
    x, y = np.meshgrid(result.x, result.y)
    shown = scale.drawable(result.surfaces[0])
    height, colors = scale.height(shown), _colormap()(scale.norm(shown))
    ax.plot_surface(x, y, height, facecolors=colors, rstride=1, cstride=1, linewidth=0.15, edgecolor=(1, 1, 1, 0.25))
    ax.set_zlim(scale.height(scale.low), scale.height(scale.high))
    ticks = scale.spaced(4)
    ax.set_zticks(scale.height(ticks), _labels(ticks))
    ax.locator_params(axis="x", nbins=4)
    ax.locator_params(axis="y", nbins=4)
    ax.tick_params(colors=GREY, labelsize=SMALL, pad=0)
    ax.view_init(elev=28, azim=-55)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.pane.set_facecolor("white")
        axis.pane.set_edgecolor("#e8ebf0")


def _draw_lines(ax: Axes, results: Any) -> None:
    """The loss on the lines along both directions of each pair: the mean, and the range of all lines."""
    colors = _line_colors(len(results))
    for color, (name, result) in zip(colors, results.items(), strict=True):
        row, column = result.center
        groups = [(result.x, [s[row] for s in result.surfaces]), (result.y, [s[:, column] for s in result.surfaces])]
        if not result.is_surface:  # at a single coordinate there is no line
            groups = sorted(groups, key=lambda group: -len(group[0]))[:1]
        elif np.array_equal(result.x, result.y):
            groups = [(result.x, [line for _, lines in groups for line in lines])]
        for number, (at, lines) in enumerate(groups):
            rows = np.array(lines)
            label = name if not number else None
            if len(groups) > 1:
                label = ("first direction", "second direction")[number]
            style = "-" if not number else "--"
            rows = np.where(np.isfinite(rows), rows, np.nan)
            at, rows = at[(shown := ~np.isnan(rows).all(axis=0))], rows[:, shown]
            marker = "o" if len(at) == 1 else None
            ax.plot(at, np.nanmean(rows, axis=0), style, marker=marker, color=color, linewidth=2, label=label or None)
            if len(rows) > 1:
                ax.fill_between(at, np.nanmin(rows, axis=0), np.nanmax(rows, axis=0), color=color, alpha=0.15, lw=0)
    low, high = _range_of(results)
    if 0 < low < high / 1.5:
        ax.set_yscale("log")
        _plain_log_ticks(ax)
    ax.locator_params(axis="x", nbins=6)
    ax.set_xlabel("distance along a direction", color=TEXT)
    ax.set_ylabel("loss", color=TEXT)
    ax.set_title("mean and range over the lines", loc="left", color=GREY, fontsize=9.5)
    style_axes(ax)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=SMALL, labelcolor=GREY)


def _draw_rises(ax: Axes, results: Any) -> None:
    """The rise of the loss at each distance, as bars."""
    colors = _line_colors(len(results))
    radii = [rise.radius for rise in next(iter(results.values())).rises]
    kinds = [(radius, kind) for radius in radii for kind in ("ascent", "mean", "worst")]
    width = 0.8 / max(1, len(results))
    for number, (color, (name, result)) in enumerate(zip(colors, results.items(), strict=True)):
        by_radius = {rise.radius: rise for rise in result.rises}
        heights = [max(getattr(by_radius[radius], kind), 0.0) for radius, kind in kinds if radius in by_radius]
        places = np.arange(len(heights)) + (number - (len(results) - 1) / 2) * width
        ax.bar(places, heights, width * 0.92, color=color, label=name)
    if any(getattr(rise, kind) > 0 for result in results.values() for rise in result.rises for _, kind in kinds):
        ax.set_yscale("log")
    names = {"ascent": "gradient", "mean": "random", "worst": "worst"}
    ax.set_xticks(range(len(kinds)), [f"{names[kind]}\n{radius:g}" for radius, kind in kinds], fontsize=SMALL)
    ax.set_ylabel("rise of the loss", color=TEXT)
    ax.set_title("rise at a distance; falls have no bar", loc="left", color=GREY, fontsize=9.5)
    style_axes(ax)


def _line_colors(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [GREY, BLUE, LIGHT_BLUE][:count] if count <= 1 else [colormaps["tab10"](i % 10) for i in range(count)]


def _colormap() -> Any:
    from matplotlib import colormaps

    return colormaps[_COLORS]


def _add_colorbar(figure: Figure, drawn: Any, scale: _Scale, axes: list[Any], location: Any) -> None:
    bar = figure.colorbar(drawn, ax=axes, location=location, shrink=0.8, pad=0.02)
    ticks = scale.spaced(6)
    bar.set_ticks(ticks.tolist(), labels=_labels(ticks))
    bar.ax.minorticks_off()
    bar.ax.tick_params(colors=GREY, labelsize=SMALL)
    bar.set_label("loss, logarithmic" if scale.is_log else "loss", color=TEXT, fontsize=SMALL)


def _range_of(results: Any) -> tuple[float, float]:
    """The smallest and the largest finite loss."""
    values = np.concatenate([surface.ravel() for result in results.values() for surface in result.surfaces])
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)


def _labels(ticks: NDArray[np.float64]) -> list[str]:
    """Numbers with as many digits as tell them apart."""
    for digits in (2, 3, 4, 6):
        labels = [f"{tick:.0f}" if 100 <= abs(tick) < 1e5 and digits == 2 else f"{tick:.{digits}g}" for tick in ticks]
        if len(set(labels)) == len(labels):
            return labels
    return labels


def _plain_log_ticks(ax: Axes) -> None:
    """1, 2 and 5 of each decade, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _short(number: float) -> str:
    return f"{number:.2g}" if number < 100 or number >= 1e5 else f"{number:.0f}"


def _set_title(figure: Figure, title: str, result: LandscapeResult) -> None:
    kind = result.directions_in_words
    if result.directions == "random":
        kind = f"{len(result.surfaces)} {'pair' if len(result.surfaces) == 1 else 'pairs'} of {kind}"
    statistics = {"running": "running statistics", "batch": "statistics of each batch"}[result.batch_norm]
    figure.suptitle(title, x=0.01, ha="left", color=TEXT, fontsize=14, fontweight="bold")
    text = f"{kind}; {result.num_samples} samples; normalisation by {statistics}"
    figure.text(0.99, 0.99, text, ha="right", va="top", color=GREY, fontsize=9.5)


def _in_words(numbers: dict[str, float], first: list[str]) -> str:
    names = [*first, "loss", "eigenvalue"]
    return ", ".join(f"{name.replace('_', ' ')} {numbers[name]:.3g}" for name in names if name in numbers)
