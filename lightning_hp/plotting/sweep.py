"""Plot of a sweep: the score of each value of each subject, and the score against the cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_hp.functional.checks import is_number, wrong_value
from lightning_hp.functional.sweep.labels import key_of, short_label
from lightning_hp.functional.sweep.spacing import is_geometric
from lightning_hp.plotting.style import BLUE, GREEN, GREY, LIGHT_BLUE, SMALL, TEXT, check_result, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_hp.results.sweep import SubjectEffect, SweepResult

_COLUMNS = 3
_COST_LABELS = {"parameters": "parameters", "latency": "latency of one sample (ms)", "time": "time of a training (s)"}


def plot_sweep(result: SweepResult) -> Figure:
    """Draws one panel per subject, in the order in which they were swept, and one with the score against the cost.

    In the panel of a subject each training is a small dot, and each value's mean a large one: green if the value is the
    best or cannot be told from it, else grey. The bar is the 95 % interval of its difference to the best, whose mean is
    the dashed line.

    Args:
        result: The result of a sweep.

    Returns:
        The figure.

    Raises:
        TypeError: If ``result`` is no SweepResult.
        ValueError: If no settings were trained with every seed.

    """
    from matplotlib.figure import Figure

    check_result(result, "SweepResult")
    if all(math.isnan(summary.mean) for summary in result.summaries()):
        wrong_value("result", "a sweep with settings that were trained with every seed", result)
    names = [name for name in result.order if name in result.effects]
    panels = len(names) + 1
    columns = 2 if panels == 4 else min(_COLUMNS, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.2 * columns + 0.4, 3.5 * rows + 0.7), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(rows, columns, squeeze=False, sharey=True)).flat)
    for ax, name in zip(axes, names, strict=False):
        _draw_effect(ax, result.effects[name], result.monitor)
    _draw_costs(axes[len(names)], result)
    for ax in axes[panels:]:
        ax.set_visible(False)
    _limit(axes[0], [trial.score for trial in result.trials if trial.status == "complete" and trial.score is not None])
    seeds = f"{len(result.seeds)} seeds" if len(result.seeds) > 1 else "one seed"
    figure.suptitle(
        f"Sweep: {len(result.trials)} trainings, {seeds}", x=0.01, ha="left", color=TEXT, fontsize=14, fontweight="bold"
    )
    return figure


def _draw_effect(ax: Axes, effect: SubjectEffect, monitor: str) -> None:
    compared = effect.comparison
    places = _places(ax, effect.values)
    best = compared.means[compared.best or 0]
    ax.axhline(best, color=GREEN, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    order = np.argsort(places)
    ax.plot(places[order], np.array(compared.means)[order], color=LIGHT_BLUE, linewidth=1.2, zorder=1)
    for row, place in enumerate(places):
        is_tied = (row in compared.ties and len(effect.scores[row]) > 1) or row == compared.best
        color = GREEN if is_tied else GREY
        scores = effect.scores[row]
        ax.plot([place] * len(scores), scores, ".", color=color, alpha=0.45, markersize=5, zorder=2)
        margin = compared.margins[row]
        if row != compared.best and not math.isnan(margin):
            ax.errorbar(place, compared.means[row], yerr=margin, color=color, capsize=3, linewidth=1.2, zorder=2)
        ax.plot(place, compared.means[row], "o", color=color, markersize=8, zorder=3, markeredgecolor="white")
    ax.set_xlabel(effect.subject, color=TEXT)
    ax.set_ylabel(monitor, color=TEXT)
    width = "" if math.isnan(effect.margin) else f" ± {effect.margin:.2g}"
    ax.set_title(f"best - worst: {effect.effect:.3g}{width}", loc="left", color=GREY, fontsize=9.5)
    style_axes(ax)


def _draw_costs(ax: Axes, result: SweepResult) -> None:
    """The mean score of each setting against its cost; the best and the recommended one are named."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    summaries = [summary for summary in result.summaries() if not math.isnan(summary.mean)]
    cost = result.cost if any(not math.isnan(summary.costs[result.cost]) for summary in summaries) else "time"
    costs = [summary.costs[cost] for summary in summaries]
    means = [summary.mean for summary in summaries]
    named = {key_of(result.best): "best", key_of(result.recommended): "recommended"}
    if len(named) == 1:
        named = dict.fromkeys(named, "best, recommended")
    for summary, x, y in zip(summaries, costs, means, strict=True):
        label = named.get(key_of(summary.settings))
        color = GREEN if summary.is_tied else GREY
        ax.plot(
            x,
            y,
            "o",
            color=BLUE if label else color,
            markersize=8 if label else 5,
            alpha=1 if label else 0.7,
            markeredgecolor="white",
        )
        if label:
            ax.annotate(label, (x, y), (6, 6), textcoords="offset points", color=BLUE, fontsize=SMALL)
    known = [x for x in costs if not math.isnan(x)]
    if len(set(known)) > 1 and is_geometric(sorted(set(known))):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.margins(x=0.15)
    ax.set_xlabel(_COST_LABELS[cost], color=TEXT)
    ax.set_ylabel(f"mean {result.monitor}", color=TEXT)
    ax.set_title("each setting: score against cost", loc="left", color=GREY, fontsize=9.5)
    style_axes(ax)


def _places(ax: Axes, values: Sequence[Any]) -> Any:
    """Where the values stand on the axis: numbers at their size, all others in the user's order."""
    if all(map(is_number, values)):
        numbers = np.array(values, dtype=float)
        if is_geometric(sorted(numbers.tolist())):
            ax.set_xscale("log")
            ax.minorticks_off()
        ax.set_xticks(numbers, [short_label(value) for value in values])
        return numbers
    places = np.arange(len(values), dtype=float)
    ax.set_xticks(places, [short_label(value) for value in values], rotation=20 if len(values) > 4 else 0)
    ax.margins(x=0.12)
    return places


def _limit(ax: Axes, scores: Sequence[float]) -> None:
    """The range of the scores with some room: an interval may be far wider."""
    low, high = min(scores), max(scores)
    room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    ax.set_ylim(low - room, high + room)
