"""Plot of the gradient noise scale along a training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_hp.plotting.style import (
    BLUE,
    GREY,
    LIGHT_BLUE,
    RED,
    SMALL,
    TEXT,
    check_axes,
    check_result,
    set_title,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lightning_hp.results import NoiseScaleResult


def plot_noise_scale(result: NoiseScaleResult, ax: Axes | None = None) -> Axes:
    """Plots the gradient noise scale over the steps of a training, with its intervals and the batch size in red.

    Where it is not known there is no dot; the band then has its lower end only.

    Args:
        result: The result of a training.
        ax: Where to plot; ``None`` creates a figure.

    Returns:
        The Axes.

    Raises:
        TypeError: If ``result`` is no NoiseScaleResult or ``ax`` no Axes.

    Example:
        >>> from lightning_hp import NoiseScaleResult
        >>> result = NoiseScaleResult((100, 200), (80., 300.), (60., 210.), (110., 450.), "accumulation", 64, 200)
        >>> plot_noise_scale(result).get_ylabel()
        'gradient noise scale, samples'

    """
    check_result(result, "NoiseScaleResult")
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(8.4, 3.8), dpi=120, layout="constrained").subplots()
    else:
        check_axes("ax", ax)
    ax.set_yscale("log", base=2)
    style_axes(ax)
    seen = [v for row in (result.noise_scales, result.lows, result.highs) for v in row if 0 < v < math.inf]
    low, high = min([*seen, result.batch_size]), max([*seen, result.batch_size])
    bottom, top = low / 2, 2 * high
    marker = "o-" if len(result.steps) < 50 else "-"
    ax.fill_between(
        result.steps,
        [max(value, bottom) for value in result.lows],
        [min(value, top) for value in result.highs],
        color=LIGHT_BLUE,
        alpha=0.35,
        linewidth=0,
    )
    ax.plot(result.steps, result.noise_scales, marker, color=BLUE, linewidth=2, markersize=4, zorder=3)
    ax.axhline(result.batch_size, color=RED, linewidth=1.4)
    ax.annotate(
        f"batch size {result.batch_size}",
        (1, result.batch_size),
        (-4, 4),
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        color=RED,
        fontsize=SMALL,
    )
    ax.set_ylim(bottom, top)
    powers = range(math.ceil(math.log2(bottom)), math.floor(math.log2(top)) + 1)
    ticks = [2.0**power for power in powers[:: math.ceil(len(powers) / 10) or 1]]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_xlabel("optimizer step", color=TEXT)
    ax.set_ylabel("gradient noise scale, samples", color=TEXT)
    if not result.steps:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", color=GREY)
    text = "an upper estimate of the critical batch size, by its order of magnitude; band: 95 % interval of the noise"
    set_title(ax, f"Gradient noise scale: {_value(result)}", text)
    return ax


def _value(result: NoiseScaleResult) -> str:
    at_least = result.interval[0]
    if result.noise_scale is not None:
        return f"about {float(f'{result.noise_scale:.2g}'):g} samples"
    return f"not known, at least {float(f'{at_least:.2g}'):g} samples" if at_least > 0 else "not known"
