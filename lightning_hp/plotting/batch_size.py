"""Plot of a search for the batch size."""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, Any

from lightning_hp.functional.batch_size.memory import MIB
from lightning_hp.functional.checks import check_iterable, wrong_value
from lightning_hp.plotting.style import (
    BACKGROUND,
    BLUE,
    GREEN,
    GREY,
    LIGHT_BLUE,
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
    from collections.abc import Iterable

    from matplotlib.axes import Axes

    from lightning_hp.results import BatchSizeResult

_MAX_TICKS = 12
_LINES: dict[str, Any] = {"classes": ":", "data": "--", "max_val": "-.", "memory": (0, (8, 3)), "throughput": "-"}


def plot_batch_size(result: BatchSizeResult, axes: Iterable[Axes] | None = None) -> tuple[Axes, Axes]:
    """Plots a search for the batch size: throughput above, memory below, bounds as grey lines, the size found in red.

    A size that did not fit is a cross on the lower axes, at its peak memory if the trial reached it.

    Args:
        result: The result of a search.
        axes: Two Axes, for the throughput and the memory; ``None`` creates a figure, which is
            ``plot_batch_size(result)[0].figure``.

    Returns:
        The two Axes.

    Raises:
        TypeError: If ``result`` is no BatchSizeResult or ``axes`` holds anything but Axes.
        ValueError: If ``axes`` are not two.

    Note:
        Takes about 80 ms. To compare several runs, plot each on its own Axes.

    References:
        McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018 (the throughput curves).

    Example:
        >>> from lightning_hp import BatchBound, BatchSizeResult, BatchTrial
        >>> result = BatchSizeResult(
        ...     batch_size=64, accumulate_grad_batches=1, world_size=1, decided_by="throughput",
        ...     bounds=(BatchBound("throughput", "fast from", 64, "within 5 % of 476 samples/s"),),
        ...     trials=(BatchTrial(64, True, 471.0, 2**20), BatchTrial(128, True, 476.0, 2**21)),
        ...     batch_size_before=32, batch_size_used=64, accumulate_before=1, base_batch_size=32)
        >>> plot_batch_size(result)[0].get_title(loc="left")
        'Batch size 64'

    """
    check_result(result, "BatchSizeResult")
    above, below = _two_axes(axes)
    for ax in (above, below):
        ax.set_xscale("log", base=2)
        style_axes(ax)
    _draw_throughput(above, result)
    _draw_memory(below, result)
    for ax in (above, below):
        bounds = _draw_bounds(ax, result)
        ax.axvline(result.batch_size, color=RED, linewidth=1.8, zorder=2.5)  # above the bounds, below the dots
    _set_sizes(below, result)
    _draw_before(below, result)
    _draw_title(above, result)
    if bounds:
        add_legend(above, "bounds", bounds)
    above.set_ylabel("samples / s", color=TEXT)
    below.set_ylabel("peak memory, MiB", color=TEXT)
    below.set_xlabel("batch size of a process", color=TEXT)
    return above, below


def _two_axes(axes: Any) -> tuple[Axes, Axes]:
    """The Axes of the user, or those of a new figure."""
    if axes is None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.4, 5.6), dpi=120, layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        return above, below
    given = check_iterable("axes", axes, "two matplotlib Axes", also="None")
    for ax in given:
        check_axes("axes", ax)
    if len(given) != 2:
        wrong_value("axes", "two matplotlib Axes, or None", axes)
    return given[0], given[1]


def _draw_throughput(ax: Axes, result: BatchSizeResult) -> None:
    """Every trial as a dot, the median of each size as a line."""
    speeds: dict[int, list[float]] = defaultdict(list)
    for trial in result.trials:
        if trial.samples_per_second is not None:
            speeds[trial.batch_size].append(trial.samples_per_second)
    for size, repeats in speeds.items():
        ax.plot([size] * len(repeats), repeats, ".", color=LIGHT_BLUE, markersize=6, zorder=3)
    sizes = sorted(speeds)
    ax.plot(sizes, [median(speeds[size]) for size in sizes], "o-", color=BLUE, linewidth=2, markersize=5, zorder=3)
    ax.set_ylim(bottom=0)


def _draw_memory(ax: Axes, result: BatchSizeResult) -> None:
    """The peak of each size as a line; a cross for each size that did not fit, at the top if its peak is unknown."""
    peaks = {trial.batch_size: trial.peak_bytes / MIB for trial in result.trials if trial.peak_bytes is not None}
    sizes = sorted(peaks)
    ax.plot(sizes, [peaks[size] for size in sizes], "o-", color=GREEN, linewidth=2, markersize=5, zorder=3)
    failed = sorted({trial.batch_size for trial in result.trials if not trial.fitted})
    top = max(peaks.values(), default=1.0) or 1.0
    heights = [peaks.get(size, top) for size in failed]
    ax.plot(failed, heights, "x", color=RED, markersize=7, markeredgewidth=1.8, zorder=5)
    if failed:
        ax.annotate(
            "did not fit",
            (failed[-1], heights[-1]),
            (0, -8),
            textcoords="offset points",
            ha="center",
            va="top",
            color=RED,
            fontsize=SMALL,
            bbox=BACKGROUND,
        )
    ax.set_ylim(-0.2 * top, 1.1 * top)  # below zero is a strip for the label of the size before
    if any(peaks.values()):
        ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= 1.1 * top])
    else:
        ax.set_yticks([])
        ax.text(0.5, 0.5, "not known on this device", transform=ax.transAxes, ha="center", color=GREY, fontsize=9.5)


def _draw_bounds(ax: Axes, result: BatchSizeResult) -> list[Any]:
    """A line for each bound that has a size; returns the legend entries, also of those outside the sizes tried."""
    return [
        ax.axvline(
            bound.size,
            color=GREY,
            linestyle=_LINES.get(bound.name, "--"),
            linewidth=1.2,
            label=f"{bound.name}: {bound.kind} {bound.size}",
        )
        for bound in result.bounds
        if bound.size is not None
    ]


def _draw_before(ax: Axes, result: BatchSizeResult) -> None:
    """A mark on the lower axis at the batch size before."""
    size = result.batch_size_before
    transform = ax.get_xaxis_transform()
    ax.plot(size, 0, "^", transform=transform, color=GREY, markersize=9, clip_on=False)
    low, high = ax.get_xlim()
    is_left = size**2 > low * high  # the label is on the side with more room
    ax.annotate(
        f"before {size}",
        (size, 0),
        (-8 if is_left else 8, 5),
        xycoords=transform,
        textcoords="offset points",
        ha="right" if is_left else "left",
        color=GREY,
        fontsize=SMALL,
        bbox=BACKGROUND,
    )


def _set_sizes(ax: Axes, result: BatchSizeResult) -> None:
    """Limits of the size axis, and powers of two as ticks, at most ``_MAX_TICKS`` of them."""
    sizes = [trial.batch_size for trial in result.trials] + [result.batch_size, result.batch_size_before]
    low, high = math.floor(math.log2(min(sizes))), math.ceil(math.log2(max(sizes)))
    ax.set_xlim(2 ** (low - 0.3), 2 ** (high + 0.3))
    ticks = [2**power for power in range(high, low - 1, -math.ceil((high - low + 1) / _MAX_TICKS))]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()


def _draw_title(ax: Axes, result: BatchSizeResult) -> None:
    """The batch size found, what decided, and the learning rate scaled to it."""
    text = f"decided by {result.decided_by} · {result.effective_batch_size} samples per optimizer step"
    if result.lr_scaled is not None:
        text += f" · learning rate {result.lr_before:.3g} → {result.lr_scaled:.3g} ({result.lr_rule})"
    set_title(ax, f"Batch size {result.batch_size}", text)
