"""Plot of a learning-rate range test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_hp.plotting.short_trainings import plot_short_trainings
from lightning_hp.plotting.style import (
    BACKGROUND,
    BLUE,
    GREEN,
    GREY,
    LIGHT_BLUE,
    LIGHT_GREEN,
    RED,
    SMALL,
    TEXT,
    add_legend,
    check_axes,
    check_result,
    set_title,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lightning_hp.results import LearningRateResult

_MARKERS = {
    "trainings": "X",
    "fall": "o",
    "one_cycle": "*",
    "half": "h",
    "steepest": "v",
    "valley": "s",
    "slide": "D",
    "minimum": "P",
}


def plot_learning_rate(result: LearningRateResult, ax: Axes | None = None) -> Axes:
    """Plots a range test: all losses, the smoothed curve, the suggestion, and what the other rules find.

    The suggestion is a red line with a red dot on the curve that it is read from; the interval is a red band, in which
    the best rate is likely to lie if there were short trainings. Learning rates above the edge of the explosion are
    shaded. The loss axis covers the fall of the loss, so an explosion is cut off. If there is no suggestion, the title
    gives the reason.

    Args:
        result: The result of a range test.
        ax: Where to plot the range test; ``None`` creates a figure, which is ``plot_learning_rate(result).figure``.
            Short trainings, if there are any, are then plotted below.

    Returns:
        The Axes.

    Raises:
        TypeError: If ``result`` is no LearningRateResult or ``ax`` no Axes.

    Note:
        Takes about 50 ms. To compare several runs, plot each on its own Axes.

    References:
        Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017 (the plot of a range test).

    Example:
        >>> from lightning_hp import LearningRateResult
        >>> from lightning_hp.functional import lr_range, suggest_lr
        >>> lrs = lr_range(1e-6, 10, 99)
        >>> losses = 2.3 - 2 / (1 + 1e-3 / lrs) + (lrs / 0.3) ** 4
        >>> result = LearningRateResult.from_range_test(lrs, losses, suggest_lr(lrs, losses), lr_before=0.1)
        >>> plot_learning_rate(result).get_title(loc="left")
        'Suggested learning rate 0.00193'

    """
    check_result(result, "LearningRateResult")
    if ax is None:
        from matplotlib.figure import Figure

        if result.trained_lrs:
            figure = Figure(figsize=(8.4, 8.2), dpi=120, layout="constrained")
            ax, below = figure.subplots(2, height_ratios=(4.6, 3.6))
            plot_short_trainings(result, below)
        else:
            ax = Figure(figsize=(8.4, 4.8), dpi=120, layout="constrained").subplots()
    else:
        check_axes("ax", ax)
    ax.set_xscale("log")
    curves = _draw_losses(ax, result)
    rules = _draw_rules(ax, result)
    repeats = _draw_suggestion(ax, result)
    edge = _draw_edge(ax, result)
    _draw_before_and_used(ax, result)
    _draw_title(ax, result)
    ax.set_xlim(result.lrs[0], result.lrs[-1])
    ax.set_ylim(*_loss_limits(result))
    ax.set_xlabel("learning rate", color=TEXT)
    ax.set_ylabel("training loss", color=TEXT)
    style_axes(ax)
    ax.ticklabel_format(axis="y", useOffset=False)
    if curves + repeats:
        legend = ax.add_artist(add_legend(ax, "sweeps", curves + repeats, at_bottom=True))
        legend.set_clip_on(False)  # else the layout takes no account of it
    if rules + edge:
        add_legend(ax, "found by other rules", rules + edge)
    return ax


def _draw_losses(ax: Axes, result: LearningRateResult) -> list[Any]:
    """All losses as thin lines and the smoothed curve as a thick one; returns the legend entries if there are two."""
    first = (result.lrs, result.losses, result.smoothed, LIGHT_BLUE, BLUE, "first sweep")
    second = (result.zoom_lrs, result.zoom_losses, result.zoom_smoothed, LIGHT_GREEN, GREEN, "second sweep")
    handles = []
    for lrs, losses, smoothed, thin, thick, name in (first, second) if result.zoom_lrs else (first,):
        for sweep in losses:
            ax.plot(lrs, sweep, ".-", color=thin, linewidth=0.7, markersize=2.5, alpha=0.75, zorder=2)
        is_read = result.suggestion is not None and smoothed is result.curve(result.rule)[1]
        label = f"{name}, read" if is_read else name
        handles += ax.plot(lrs, smoothed, color=thick, linewidth=2.2, solid_capstyle="round", zorder=3, label=label)
    return handles if len(handles) > 1 else []


def _draw_rules(ax: Axes, result: LearningRateResult) -> list[Any]:
    """A grey marker for each rule that does not give the suggestion; returns the legend entries."""
    handles = []
    for name, lr in result.rules.items():
        if lr is not None and (name != result.rule or result.suggestion is None):
            handles += ax.plot(
                lr,
                _loss_at(result, name, lr),
                _MARKERS.get(name, "o"),
                color="white",
                markeredgecolor=GREY,
                markersize=6,
                zorder=5,
                label=f"{name}  {lr:.3g}",
            )
    return handles


def _draw_suggestion(ax: Axes, result: LearningRateResult) -> list[Any]:
    """The suggestion, its interval, and the suggestion of each repeat; returns the legend entry of the repeats."""
    if result.suggestion is None:
        return []
    handles = []
    if result.interval is not None and result.rule in ("fall", "trainings"):
        ax.axvspan(*result.interval, color=RED, alpha=0.13, linewidth=0, zorder=1)
    if result.interval is not None and result.rule == "fall":
        repeats = [lr for lr in result.per_repeat if lr is not None and len(result.per_repeat) > 1]
        handles = ax.plot(
            repeats,
            [1] * len(repeats),
            "|",
            transform=ax.get_xaxis_transform(),
            color=RED,
            markersize=14,
            zorder=5,
            label="suggested per repeat",
        )
        handles = handles if repeats else []
    ax.axvline(result.suggestion, color=RED, linewidth=1.8, zorder=4)
    ax.plot(
        result.suggestion,
        _loss_at(result, result.rule, result.suggestion),
        "o",
        color=RED,
        markeredgecolor="white",
        markeredgewidth=1.5,
        markersize=10,
        zorder=6,
    )
    return handles


def _draw_edge(ax: Axes, result: LearningRateResult) -> list[Any]:
    """Shades the learning rates above the edge; returns the legend entry."""
    if result.edge is None:
        return []
    label = f"past the edge, {result.edge:.3g}"
    return [ax.axvspan(result.edge, result.lrs[-1], color=GREY, alpha=0.1, linewidth=0, zorder=0, label=label)]


def _draw_before_and_used(ax: Axes, result: LearningRateResult) -> None:
    """Marks on the lower axis at the learning rates before and used; an arrow at the end if outside the range."""
    if result.lr_used == result.lr_before:
        marks = [("used {:.3g} (unchanged)", result.lr_before, GREY, False)]
    else:
        rises = result.lr_used > result.lr_before
        marks = [("before {:.3g}", result.lr_before, GREY, rises), ("used {:.3g}", result.lr_used, RED, not rises)]
    low, high = np.log10(result.lrs[0]), np.log10(result.lrs[-1])
    sides: list[bool] = []
    for text, lr, color, is_left in marks:
        position = (np.log10(lr) - low) / (high - low) if lr > 0 else -1.0
        marker = "<" if position < 0 else ">" if position > 1 else "^"
        position = float(np.clip(position, 0, 1))
        is_left = position > 0.85 or (is_left and position > 0.15)
        row = 5 + 12 * sides.count(is_left)  # points; two labels on the same side are stacked
        sides.append(is_left)
        ax.plot(position, 0, marker, transform=ax.transAxes, color=color, markersize=9, clip_on=False, zorder=7)
        ax.annotate(
            text.format(lr),
            (position, 0),
            (-8 if is_left else 8, row),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right" if is_left else "left",
            color=color,
            fontsize=SMALL,
            zorder=7,
            bbox=BACKGROUND,
        )


def _draw_title(ax: Axes, result: LearningRateResult) -> None:
    """The suggestion, and how it was read or why there is none."""
    if result.suggestion is None:
        set_title(ax, "No learning rate suggested", result.reason or "")
        return
    text = result.why
    if result.note is not None:
        text += f"\n{result.note}"
    set_title(ax, f"Suggested learning rate {result.suggestion:.3g}", text)


def _loss_at(result: LearningRateResult, rule: str, lr: float) -> float:
    """Height of the curve that the rule is read from."""
    lrs, smoothed = map(np.array, result.curve(rule))
    known = np.isfinite(smoothed)
    if not known.any():
        return float("nan")
    return float(np.interp(np.log10(lr), np.log10(lrs[known]), smoothed[known]))


def _loss_limits(result: LearningRateResult) -> tuple[float, float]:
    """Limits of the loss axis: the fall of the loss with a margin, and a strip for the labels below it."""
    first = np.array(result.losses)
    losses = np.concatenate([first.ravel(), np.ravel(result.zoom_losses)])
    smoothed = np.concatenate([result.smoothed, result.zoom_smoothed])
    losses, early, smoothed = (
        values[np.isfinite(values)] for values in (losses, first[:, : max(4, first.shape[1] // 4)], smoothed)
    )
    if len(early) == 0:
        return 0.0, 1.0
    smoothed = smoothed if len(smoothed) else early
    start, lowest = float(smoothed[0]), float(smoothed.min())
    spread = float(np.subtract(*np.quantile(early, (0.95, 0.05))))
    height = max(start - lowest, 2 * spread)
    if height <= 1e-6 * abs(start):  # a constant loss, up to rounding
        height = abs(start) or 1.0
    low, high = max(float(losses.min()), lowest - 0.4 * height), min(float(losses.max()), start + 0.5 * height)
    return low - 0.2 * height, high + 0.08 * height
