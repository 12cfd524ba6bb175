"""Draws a learning-rate range test."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from lightning_hp.plotting.style import ANSWER, CURVE, INK, QUIET, RAW, SECOND, bare, headline
from lightning_hp.results import RULES, LRFindResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = {"fall": "o", "one_cycle": "*", "half": "h", "steepest": "v", "valley": "s", "slide": "D", "minimum": "P"}


def plot_lr_find(result: LRFindResult, ax: Axes | None = None) -> Axes:
    """Draws a range test: every loss, the smooth curve, the suggestion and what the other rules say.

    The suggestion is the red line, with the fair choices around it as a band; what lies beyond the edge of the
    explosion is shaded. The loss axis follows the fall, so that an explosion leaves the picture instead of flattening
    it. A refusal shows its reason.

    Args:
        result: What the range test found.
        ax: Where to draw; ``None``: on a new figure, ``plot_lr_find(result).figure``.

    Returns:
        The Axes.

    Costs some 50 ms. Does not help to compare several runs: draw each on its own Axes.

    Source: Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017 (the plot of a range test).

    Example:
        >>> from lightning_hp.functional import lr_range, suggest_lr
        >>> lrs = lr_range(1e-6, 10, 99)
        >>> losses = 2.3 - 2 / (1 + 1e-3 / lrs) + (lrs / 0.3) ** 4
        >>> result = LRFindResult.from_sweep(lrs, losses, suggest_lr(lrs, losses), lr_before=0.1)
        >>> plot_lr_find(result).get_title(loc="left")
        'Learning rate 0.00193'

    """
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(8.4, 4.8), dpi=120, layout="constrained").subplots()
    ax.set_xscale("log")
    _draw_losses(ax, result)
    _draw_rules(ax, result)
    _draw_answer(ax, result)
    _draw_own_lr(ax, result)
    _draw_title(ax, result)
    ax.set_xlim(result.lrs[0], result.lrs[-1])
    ax.set_ylim(*_loss_limits(result))
    ax.set_xlabel("learning rate", color=INK)
    ax.set_ylabel("training loss", color=INK)
    bare(ax)
    ax.ticklabel_format(axis="y", useOffset=False)
    if ax.get_legend_handles_labels()[0]:
        legend = ax.legend(
            title="other rules" if result.suggestion is not None else "other finders would say",
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            frameon=False,
            fontsize=8.5,
            labelcolor=QUIET,
            labelspacing=0.6,
            alignment="left",
        )
        legend.get_title().set(color=INK, fontsize=8.5)
    return ax


def _draw_losses(ax: Axes, result: LRFindResult) -> None:
    """Every repeat thinly, the smooth curve boldly, and the same for a second sweep."""
    wide = (result.lrs, result.losses, result.smoothed, RAW, CURVE, None)
    zoom = (result.zoom_lrs, result.zoom_losses, result.zoom_smoothed, SECOND, SECOND, "second sweep")
    for lrs, losses, smoothed, thin, bold, label in (wide, zoom) if result.zoom_lrs else (wide,):
        for sweep in losses:
            ax.plot(lrs, sweep, ".-", color=thin, linewidth=0.7, markersize=2.5, alpha=0.75, zorder=2)
        ax.plot(lrs, smoothed, color=bold, linewidth=2.2, solid_capstyle="round", zorder=3, label=label)


def _draw_rules(ax: Axes, result: LRFindResult) -> None:
    """A small grey mark on the curve for every rule that was not asked for, named in the legend."""
    for name, lr in result.rules.items():
        if lr is not None and (name != result.rule or result.suggestion is None):
            label = f"{name}  {lr:.3g}"
            loss = _loss_at(result, lr)
            ax.plot(
                lr,
                loss,
                _MARKERS.get(name, "o"),
                color="white",
                markeredgecolor=QUIET,
                markersize=6,
                zorder=5,
                label=label,
            )


def _draw_answer(ax: Axes, result: LRFindResult) -> None:
    """The suggestion, its band, what every repeat says alone, and the explosion."""
    if result.edge is not None:
        label = f"past the edge, {result.edge:.3g}"
        ax.axvspan(result.edge, result.lrs[-1], color=QUIET, alpha=0.1, linewidth=0, zorder=0, label=label)
    if result.suggestion is None:
        return
    if result.interval is not None and result.rule == "fall":
        ax.axvspan(*result.interval, color=ANSWER, alpha=0.13, linewidth=0, zorder=1)
        alone = [lr for lr in result.per_repeat if lr is not None and len(result.per_repeat) > 1]
        ax.plot(alone, [1] * len(alone), "|", transform=ax.get_xaxis_transform(), color=ANSWER, markersize=14, zorder=5)
    ax.axvline(result.suggestion, color=ANSWER, linewidth=1.8, zorder=4)
    loss = _loss_at(result, result.suggestion)
    ax.plot(
        result.suggestion,
        loss,
        "o",
        color=ANSWER,
        markeredgecolor="white",
        markeredgewidth=1.5,
        markersize=10,
        zorder=6,
    )


def _draw_own_lr(ax: Axes, result: LRFindResult) -> None:
    """Where the model stood before and where it stands now, below the curve; an arrow if that is outside the range."""
    if result.lr_used == result.lr_before:
        marks = [("stays", result.lr_before, QUIET, False)]
    else:
        rises = result.lr_used > result.lr_before
        marks = [("before", result.lr_before, QUIET, rises), ("used", result.lr_used, ANSWER, not rises)]
    low, high = np.log10(result.lrs[0]), np.log10(result.lrs[-1])
    for name, lr, color, text_left in marks:
        position = (np.log10(lr) - low) / (high - low) if lr > 0 else -1.0
        marker = "<" if position < 0 else ">" if position > 1 else "^"
        position = float(np.clip(position, 0, 1))
        text_left = position > 0.85 or (text_left and position > 0.15)
        ax.plot(position, 0, marker, transform=ax.transAxes, color=color, markersize=9, clip_on=False, zorder=7)
        ax.annotate(
            f"{name} {lr:.3g}",
            (position, 0),
            (-8 if text_left else 8, 5),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right" if text_left else "left",
            color=color,
            fontsize=8.5,
            zorder=7,
        )


def _draw_title(ax: Axes, result: LRFindResult) -> None:
    """The answer, and below it how it was read."""
    if result.suggestion is None:
        title, text = "No learning rate suggested", result.reason or ""
    else:
        title, text = f"Learning rate {result.suggestion:.3g}", RULES.get(result.rule, result.rule)
        if result.interval is not None and result.rule == "fall":
            text += " · fair from {:.3g} to {:.3g}".format(*result.interval)
        if result.note is not None:
            text += f"\n{result.note}"
    lines = [line for part in text.split("\n") for line in textwrap.wrap(part, 105)]
    headline(ax, title, lines)


def _loss_at(result: LRFindResult, lr: float) -> float:
    """Height of the smooth curve at ``lr``."""
    lrs, smoothed = np.array(result.lrs), np.array(result.smoothed)
    reached = np.isfinite(smoothed)
    if not reached.any():
        return float("nan")
    return float(np.interp(np.log10(lr), np.log10(lrs[reached]), smoothed[reached]))


def _loss_limits(result: LRFindResult) -> tuple[float, float]:
    """The fall with some air; single losses far above and below it are cut off."""
    sweeps, smoothed = np.array(result.losses), np.array(result.smoothed)
    losses, early = (part[np.isfinite(part)] for part in (sweeps, sweeps[:, : max(4, sweeps.shape[1] // 4)]))
    if len(early) == 0:
        return 0.0, 1.0
    smoothed = smoothed[np.isfinite(smoothed)] if np.isfinite(smoothed).any() else early
    start, lowest = float(smoothed[0]), float(smoothed.min())
    spread = float(np.subtract(*np.quantile(early, (0.95, 0.05))))
    height = max(start - lowest, 2 * spread)
    if height <= 1e-6 * abs(start):  # a constant loss, up to rounding
        height = abs(start) or 1.0
    low, high = max(float(losses.min()), lowest - 0.4 * height), min(float(losses.max()), start + 0.5 * height)
    return low - 0.08 * height, high + 0.08 * height
