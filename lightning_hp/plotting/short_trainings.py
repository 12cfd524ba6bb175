"""Plot of the short trainings of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_hp.functional.checks import wrong_value
from lightning_hp.functional.learning_rate.training_losses import final_loss
from lightning_hp.plotting.style import (
    BLUE,
    RED,
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

#: A curve is the mean over this share of its steps around each step.
_WINDOW = 0.1


def plot_short_trainings(result: LearningRateResult, ax: Axes | None = None) -> Axes:
    """Plots the losses of the short trainings over their steps, and the longer training at the suggestion in red.

    Each curve is a moving average over a tenth of its steps; the losses themselves are dots. The higher the learning
    rate, the darker the curve. The legend gives the mean loss over the last fifth of the steps.

    Args:
        result: The result of a search with short trainings.
        ax: Where to plot; ``None`` creates a figure.

    Returns:
        The Axes.

    Raises:
        TypeError: If ``result`` is no LearningRateResult or ``ax`` no Axes.
        ValueError: If ``result`` has no short trainings.

    Example:
        >>> from lightning_hp import LearningRateResult
        >>> from lightning_hp.functional import choose_rate, lr_range, suggest_lr
        >>> lrs = lr_range(1e-6, 10, 99)
        >>> losses = 2.3 - 2 / (1 + 1e-3 / lrs) + (lrs / 0.3) ** 4
        >>> result = LearningRateResult.from_range_test(lrs, losses, suggest_lr(lrs, losses), lr_before=0.1)
        >>> trainings = {lr: [2.3 - loss * step / 50 for step in range(50)] for lr, loss in ((0.01, 1), (0.03, 2))}
        >>> result = result.with_trainings(trainings, choose_rate(trainings, 50, [2.3] * 9))
        >>> plot_short_trainings(result).get_xlabel()
        'step'

    """
    check_result(result, "LearningRateResult")
    if not result.trained_lrs:
        wrong_value("result", "a result with short trainings", "one without")
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(8.4, 3.8), dpi=120, layout="constrained").subplots()
    else:
        check_axes("ax", ax)
    num_steps = len(result.trained_losses[0])
    handles = []
    for position, (lr, losses) in enumerate(zip(result.trained_lrs, result.trained_losses, strict=True)):
        shade = 0.35 + 0.65 * (position + 1) / len(result.trained_lrs)
        row = np.array(losses)[np.isfinite(losses)]
        end = final_loss(row.tolist(), len(row)) if len(row) else np.inf
        exploded = not np.isfinite(end) or (len(row) < num_steps and end > row[0])
        text = f"{lr:.3g}   exploded" if exploded else f"{lr:.3g}   {end:.4g}"
        handles += _draw(ax, row, BLUE, shade, text)
    if result.checked_losses:
        checked = np.array(result.checked_losses)
        label = f"{result.suggestion:.3g}   {final_loss(checked.tolist(), len(checked)):.4g}"
        handles += _draw(ax, checked, RED, 1.0, label)
    ax.set_ylim(*_loss_limits(result))
    ax.set_xlabel("step", color=TEXT)
    ax.set_ylabel("training loss", color=TEXT)
    style_axes(ax)
    ax.ticklabel_format(axis="y", useOffset=False)
    set_title(ax, "Short trainings", "from the same weights over the same batches")
    add_legend(ax, "rate   final loss", handles)
    return ax


def _draw(ax: Axes, losses: np.ndarray, color: str, shade: float, label: str) -> list[Any]:
    """The losses of one training as dots and their moving average as a line; returns the legend entry."""
    steps = np.arange(1, len(losses) + 1)
    ax.plot(steps, losses, ".", color=color, alpha=0.25 * shade, markersize=3, zorder=2)
    return ax.plot(steps, _moving_average(losses), color=color, alpha=shade, linewidth=1.8, zorder=3, label=label)


def _moving_average(losses: np.ndarray) -> np.ndarray:
    """The mean of each loss and those around it, of as many before as after."""
    half = int(_WINDOW * len(losses) / 2)
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    steps = np.arange(len(losses))
    reach = np.minimum(np.minimum(steps, len(losses) - 1 - steps), half)
    average: np.ndarray = (sums[steps + reach + 1] - sums[steps - reach]) / (2 * reach + 1)
    return average


def _loss_limits(result: LearningRateResult) -> tuple[float, float]:
    """From the lowest loss to a little above the loss of the untrained model."""
    first = [row[0] for row in result.trained_losses if np.isfinite(row[0])]
    averages = [_moving_average(np.array(row)[np.isfinite(row)]) for row in result.trained_losses]
    lowest = min((float(average.min()) for average in averages if len(average)), default=0.0)
    start = max(first, default=1.0)
    height = max(start - lowest, 1e-6 * abs(start), 1e-12)
    return lowest - 0.15 * height, start + 0.4 * height
