"""The loss curve of a range test: checks, median of the repeats, smoothing, noise, and its first valley.

Pseudo-code:

    loss    = median over the repeats, at each learning rate
    plateau = median loss over the first tenth of the range, in log10(lr)
    loss    = median of each loss and its two neighbours
    loss    = min(loss, plateau + max(2 * (plateau - smallest loss), 5 * noise))
    smooth  = average of the losses around each rate, weighted by a Gaussian kernel in log10(lr)
    valley  = the first dip of `smooth` below the plateau that is deep enough
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_hp.functional.checks import check_array, wrong_type, wrong_value

Array = NDArray[np.float64]

#: Nothing is learned yet in the first tenth of the range, measured in decades.
PLATEAU_SHARE = 0.1

#: A curve has at least this many finite losses.
MIN_POINTS = 10

#: A dip that is at least this share of the deepest one is the first valley. Smaller dips are noise.
MIN_DEPTH = 0.2

#: At the edge this share of the fall is lost again.
LOST_AT_EDGE = 0.25


class LossCurve(NamedTuple):
    """A smooth loss curve.

    Attributes:
        log_lrs: log10 of the learning rates that have a finite loss, shape (points,).
        smoothed: The smooth loss there, shape (points,).
        plateau: The loss before anything is learned.
        noise: Standard deviation of one loss, from its second differences.
    """

    log_lrs: Array
    smoothed: Array
    plateau: float
    noise: float


class Valley(NamedTuple):
    """The first valley of a curve.

    Attributes:
        curve: The curve.
        bottom: Index of the smallest smooth loss in the valley.
        signal: Depth in standard deviations of one loss.
    """

    curve: LossCurve
    bottom: int
    signal: float

    @property
    def fall(self) -> float:
        """Depth below the plateau."""
        return self.curve.plateau - float(self.curve.smoothed[self.bottom])

    def log_lr_at(self, share: float) -> float | None:
        """log10 of the learning rate where ``share`` of the fall is reached, or ``None`` if the curve starts lower.

        This is the last crossing before the bottom, since an earlier dip is noise. Neighbours are joined by a line.
        """
        level = self.curve.plateau - share * self.fall
        above = np.flatnonzero(self.curve.smoothed[: self.bottom] > level)
        return self._crossing(int(above[-1]), level) if len(above) else None

    def log_lr_of_edge(self) -> float | None:
        """log10 of the first learning rate above the bottom where a quarter of the fall is lost again."""
        level = self.curve.plateau - (1 - LOST_AT_EDGE) * self.fall
        above = np.flatnonzero(self.curve.smoothed[self.bottom :] > level)
        return self._crossing(self.bottom + int(above[0]) - 1, level) if len(above) else None

    def _crossing(self, left: int, level: float) -> float:
        """Where the line from point ``left`` to the next one crosses ``level``."""
        (x0, x1), (y0, y1) = self.curve.log_lrs[left : left + 2], self.curve.smoothed[left : left + 2]
        return float(x0 + (x1 - x0) * (level - y0) / (y1 - y0))


def check_lrs(lrs: ArrayLike) -> Array:
    """The learning rates of a sweep, shape (steps,).

    Raises:
        TypeError: If they are no sequence of numbers.
        ValueError: If they are not finite, positive and strictly rising, or not of one dimension.

    """
    expected = "finite, positive, strictly rising learning rates"
    rates = check_array("lrs", lrs, expected)
    if rates.ndim == 0:
        wrong_type("lrs", expected, lrs)
    if rates.ndim != 1 or len(rates) == 0:
        wrong_value("lrs.shape", "(steps,) with at least one step", rates.shape)
    if not (np.all(np.isfinite(rates)) and np.all(rates > 0) and np.all(np.diff(rates) > 0)):
        wrong_value("lrs", expected, rates.tolist())
    return rates


def check_sweep(lrs: ArrayLike, losses: ArrayLike) -> tuple[Array, Array]:
    """The learning rates, shape (steps,), and the losses, shape (repeats, steps), with NaN where one is not finite.

    Raises:
        TypeError: If one of them is no sequence of numbers.
        ValueError: If ``lrs`` are not finite, positive and strictly rising, or the shapes do not match.

    """
    rates = check_lrs(lrs)
    expected = "numbers, one for each learning rate, with NaN where a sweep stopped earlier"
    sweeps = check_array("losses", losses, expected)
    if sweeps.ndim == 0:
        wrong_type("losses", expected, losses)
    if sweeps.ndim > 2 or sweeps.shape[-1] != len(rates) or sweeps.size == 0:
        steps = len(rates)
        wrong_value("losses.shape", f"({steps},) or (repeats, {steps}), since `lrs` has {steps} steps", sweeps.shape)
    return rates, np.where(np.isfinite(sweeps), sweeps, np.nan).reshape(-1, len(rates))


def median_of_repeats(sweeps: Array) -> Array:
    """The median over the repeats, shape (steps,); NaN where fewer than half of them have a loss.

    Note:
        A sweep that stops early has exploded, so the median of those that go on would not be the median of all.

    """
    has_loss = np.isfinite(sweeps).mean(axis=0) >= 0.5
    median = np.full(sweeps.shape[1], np.nan)
    median[has_loss] = np.nanmedian(sweeps[:, has_loss], axis=0)
    return median


def read_curve(lrs: Array, losses: Array, bandwidth: float) -> LossCurve:
    """Clips the explosion, smooths over log10(lr) and measures the noise.

    Args:
        lrs: Learning rates, shape (steps,).
        losses: Losses, shape (steps,), at least ``MIN_POINTS`` of them finite.
        bandwidth: Standard deviation of the kernel in decades.

    Returns:
        The smooth curve.

    Note:
        A Gaussian kernel centred on each rate has no lag and no start to debias, unlike an exponential moving average.
        It would spread an explosion to smaller rates, so the losses are clipped at twice the fall above the plateau.
        The clip is relative to the fall, so ``a * loss + b`` with a > 0 gives the same reading, also for negative
        losses.

    """
    finite = np.isfinite(losses)
    x, y = np.log10(lrs[finite]), losses[finite]
    start = np.log10(lrs[0]) + PLATEAU_SHARE * np.log10(lrs[-1] / lrs[0])
    plateau = float(np.median(y[: max(3, int(np.sum(x <= start)))]))
    filtered = _median_of_three(y)
    # Second differences cancel the slope of the fall. Above the bottom the explosion would add to them.
    before = y[: max(MIN_POINTS, int(np.argmin(filtered)) + 1)]
    noise = 1.4826 * float(np.median(np.abs(np.diff(before, 2)))) / math.sqrt(6)
    noise = max(noise, float(np.finfo(np.float32).eps) * abs(plateau))
    clip = plateau + max(2 * (plateau - float(filtered.min())), 5 * noise)
    return LossCurve(x, _kernel_average(x, np.minimum(filtered, clip), bandwidth), plateau, noise)


def first_valley(curve: LossCurve, min_signal: float) -> Valley:
    """The first dip of at least ``min_signal`` and of at least ``MIN_DEPTH`` of the deepest one; else the deepest one.

    Note:
        The dip ends where the curve is back on the plateau: a later fall starts from weights that have diverged.

    """
    depth = curve.plateau - curve.smoothed
    deep = depth >= max(MIN_DEPTH * float(depth.max()), min_signal * curve.noise)
    start = int(np.argmax(deep)) if deep.any() else int(np.argmax(depth))
    back = np.flatnonzero(depth[start:] <= 0)
    end = start + int(back[0]) if len(back) and back[0] > 0 else len(depth)
    bottom = start + int(np.argmax(depth[start:end]))
    signal = float(depth[bottom]) / curve.noise if curve.noise > 0 else (np.inf if depth[bottom] > 0 else 0.0)
    return Valley(curve, bottom, signal)


def _median_of_three(y: Array) -> Array:
    """The median of each loss and its two neighbours, which removes a single outlier."""
    return np.concatenate([y[:1], np.median([y[:-2], y[1:-1], y[2:]], axis=0), y[-1:]])


def _kernel_average(x: Array, y: Array, bandwidth: float) -> Array:
    """Weights each loss by its length of the axis, or the many large rates of a linear sweep would dominate."""
    width = np.minimum(np.gradient(x), bandwidth)
    with np.errstate(over="ignore"):  # a tiny bandwidth: the square is infinite and the weight zero
        weights = np.exp(-0.5 * np.square((x[:, None] - x[None, :]) / bandwidth)) * width
    average: Array = weights @ y / weights.sum(axis=1)
    return average
