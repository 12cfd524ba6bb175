"""Draws a search for the batch size."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

from lightning_hp.plotting.style import ANSWER, CURVE, INK, QUIET, RAW, SECOND, bare, headline
from lightning_hp.results import BatchSizeResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MIB = 2**20
_TICKS = 12
_LINES = {"classes": ":", "data": "--", "max_val": "-.", "memory": (0, (5, 1)), "throughput": (0, (1, 1))}


def plot_batch_size(result: BatchSizeResult, axes: tuple[Axes, Axes] | None = None) -> tuple[Axes, Axes]:
    """Draws a search for the batch size: throughput above, memory below, every bound as a line, the answer in red.

    A size that did not fit is a cross on the axis of the memory.

    Args:
        result: What the search found.
        axes: Where to draw, throughput and memory; ``None``: on a new figure, ``plot_batch_size(result)[0].figure``.

    Returns:
        The two Axes.

    Costs some 80 ms. Does not help to compare several runs: draw each on its own Axes.

    Source: the throughput curves of McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018.

    Example:
        >>> from lightning_hp.results import BatchBound, BatchTrial
        >>> result = BatchSizeResult(
        ...     batch_size=64, accumulate_grad_batches=1, world_size=1, decided_by="throughput",
        ...     bounds=(BatchBound("throughput", "fast from", 64, "within 5 % of 476 samples/s"),),
        ...     trials=(BatchTrial(64, True, 471.0, 2**20), BatchTrial(128, True, 476.0, 2**21)),
        ...     batch_size_before=32, batch_size_used=64, accumulate_before=1, base_batch_size=32)
        >>> plot_batch_size(result)[0].get_title(loc="left")
        'Batch size 64'

    """
    if axes is None:
        from matplotlib.figure import Figure

        above, below = Figure(figsize=(8.4, 5.6), dpi=120, layout="constrained").subplots(
            2, 1, sharex=True, height_ratios=(3, 2)
        )
    else:
        above, below = axes
    for ax in (above, below):
        ax.set_xscale("log", base=2)
        bare(ax)
    _draw_throughput(above, result)
    _draw_memory(below, result)
    for ax in (above, below):
        _draw_bounds(ax, result)
        ax.axvline(result.batch_size, color=ANSWER, linewidth=1.8, zorder=2.5)  # above the bounds, below the dots
    _set_sizes(below, result)
    _draw_before(below, result)
    _draw_title(above, result)
    if any(bound.size is not None for bound in result.bounds):
        legend = above.legend(
            loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8.5, labelcolor=QUIET, alignment="left"
        )
        legend.set_title("bounds")
        legend.get_title().set(color=INK, fontsize=8.5)
    above.set_ylabel("samples / s", color=INK)
    below.set_ylabel("peak memory, MiB", color=INK)
    below.set_xlabel("batch size of a process", color=INK)
    return above, below


def _draw_throughput(ax: Axes, result: BatchSizeResult) -> None:
    """Every trial as a dot, the medians as a line."""
    speeds: dict[int, list[float]] = defaultdict(list)
    for trial in result.trials:
        if trial.samples_per_second is not None:
            speeds[trial.batch_size].append(trial.samples_per_second)
    for size, repeats in speeds.items():
        ax.plot([size] * len(repeats), repeats, ".", color=RAW, markersize=6, zorder=3)
    sizes = sorted(speeds)
    ax.plot(sizes, [median(speeds[size]) for size in sizes], "o-", color=CURVE, linewidth=2, markersize=5, zorder=3)
    ax.set_ylim(bottom=0)


def _draw_memory(ax: Axes, result: BatchSizeResult) -> None:
    """The peak of each size; a cross for one that did not fit, at the top if it failed on the way to its peak."""
    peaks = {trial.batch_size: trial.peak_bytes / _MIB for trial in result.trials if trial.peak_bytes is not None}
    sizes = sorted(peaks)
    ax.plot(sizes, [peaks[size] for size in sizes], "o-", color=SECOND, linewidth=2, markersize=5, zorder=3)
    failed = sorted({trial.batch_size for trial in result.trials if not trial.fitted})
    top = max(peaks.values(), default=1.0)
    heights = [peaks.get(size, top) for size in failed]
    ax.plot(failed, heights, "x", color=ANSWER, markersize=7, markeredgewidth=1.8, zorder=5)
    if failed:
        ax.annotate(
            "did not fit",
            (failed[-1], heights[-1]),
            (0, -8),
            textcoords="offset points",
            ha="center",
            va="top",
            color=ANSWER,
            fontsize=8.5,
        )
    ax.set_ylim(0, 1.1 * top or 1.0)
    if not any(peaks.values()):
        ax.set_yticks([])
        ax.text(0.5, 0.5, "not known on this device", transform=ax.transAxes, ha="center", color=QUIET, fontsize=9.5)


def _draw_bounds(ax: Axes, result: BatchSizeResult) -> None:
    """A line for each bound that has a size; those that lie outside of what was tried are only named."""
    for bound in result.bounds:
        if bound.size is not None:
            label = f"{bound.name}: {bound.kind} {bound.size}"
            ax.axvline(bound.size, color=QUIET, linestyle=_LINES.get(bound.name, "--"), linewidth=1.2, label=label)


def _draw_before(ax: Axes, result: BatchSizeResult) -> None:
    """Where the training stood before."""
    ax.plot(
        result.batch_size_before, 0, "^", transform=ax.get_xaxis_transform(), color=QUIET, markersize=9, clip_on=False
    )
    low, high = ax.get_xlim()
    is_right = result.batch_size_before**2 > low * high
    ax.annotate(
        f"before {result.batch_size_before}",
        (result.batch_size_before, 0),
        (-8 if is_right else 8, 5),
        xycoords=ax.get_xaxis_transform(),
        textcoords="offset points",
        ha="right" if is_right else "left",
        color=QUIET,
        fontsize=8.5,
    )


def _set_sizes(ax: Axes, result: BatchSizeResult) -> None:
    """Powers of two, written as numbers, over what was tried; of many of them some."""
    sizes = [trial.batch_size for trial in result.trials] + [result.batch_size, result.batch_size_before]
    low, high = math.floor(math.log2(min(sizes))), math.ceil(math.log2(max(sizes)))
    ax.set_xlim(2 ** (low - 0.3), 2 ** (high + 0.3))
    ticks = [2**power for power in range(high, low - 1, -math.ceil((high - low + 1) / _TICKS))]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()


def _draw_title(ax: Axes, result: BatchSizeResult) -> None:
    """The answer, what decided, and what became of the learning rate."""
    text = f"{result.decided_by} decided · {result.effective_batch_size} samples for one optimizer step"
    if result.lr_scaled is not None:
        text += f" · learning rate {result.lr_before:.3g} → {result.lr_scaled:.3g} ({result.lr_rule})"
    headline(ax, f"Batch size {result.batch_size}", textwrap.wrap(text, 105))
