"""What every reading of a range test needs: checked arrays, the median of the repeats, a smooth curve, its noise."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: The first tenth of the range (in decades) is taken for the part where nothing has been learned yet.
PLATEAU_SHARE = 0.1

#: Fewer finite losses than this are no curve.
MIN_POINTS = 10


class LossCurve(NamedTuple):
    """A loss curve made readable.

    Attributes:
        log_lrs: log10 of the learning rates that were reached, shape (points,).
        smoothed: The smooth loss there, shape (points,).
        plateau: The loss before anything is learned.
        noise: Standard deviation of one loss, from its second differences.
    """

    log_lrs: Array
    smoothed: Array
    plateau: float
    noise: float


def check_sweep(lrs: ArrayLike, losses: ArrayLike) -> tuple[Array, Array]:
    """The sweep as arrays of shape (steps,) and (repeats, steps), NaN where a loss is not a number.

    Raises:
        ValueError: If ``lrs`` are not positive, finite and rising, or if the shapes do not fit each other.

    """
    rates = np.asarray(lrs, dtype=np.float64)
    sweeps = np.asarray(losses, dtype=np.float64)
    if rates.ndim != 1 or not (np.all(np.isfinite(rates)) and np.all(rates > 0) and np.all(np.diff(rates) > 0)):
        raise ValueError(
            "Expected `lrs` to be one row of finite, positive, strictly rising learning rates, "
            f"but got shape {rates.shape}: {np.array2string(rates, threshold=8, precision=3)}."
        )
    if sweeps.ndim not in (1, 2) or sweeps.shape[-1] != len(rates) or sweeps.size == 0:
        raise ValueError(
            f"Expected `losses` of shape ({len(rates)},) or (repeats, {len(rates)}), one loss for each learning rate "
            f"with NaN where a sweep did not arrive, but got shape {sweeps.shape}."
        )
    return rates, np.where(np.isfinite(sweeps), sweeps, np.nan).reshape(-1, len(rates))


def median_of_repeats(sweeps: Array) -> Array:
    """The median over the repeats, shape (steps,); NaN where fewer than half of them arrived.

    Sweeps of one training that stop early stop because they exploded: what the last survivor says is not the median.
    """
    arrived = np.isfinite(sweeps).mean(axis=0) >= 0.5
    median = np.full(sweeps.shape[1], np.nan)
    median[arrived] = np.nanmedian(sweeps[:, arrived], axis=0)
    return median


def read_curve(lrs: Array, losses: Array, bandwidth: float) -> LossCurve:
    """Clips the explosion, smooths over log10(lr) and measures the noise; ``losses`` has shape (steps,).

    A Gaussian kernel centred on each rate has no lag, unlike an exponential moving average, and no start to debias.
    It would carry an explosion to the left, so the losses are clipped: twice the fall above the plateau. A clip that is
    measured by the fall does the same to ``a * loss + b`` for every a > 0 and b, and so works on negative losses.
    """
    reached = np.isfinite(losses)
    x, y = np.log10(lrs[reached]), losses[reached]
    start = np.log10(lrs[0]) + PLATEAU_SHARE * np.log10(lrs[-1] / lrs[0])
    plateau = float(np.median(y[: max(3, int(np.sum(x <= start)))]))
    typical = _median_of_three(y)
    # Second differences do not see the slope of the fall; beyond the bottom the explosion makes its own noise.
    calm = y[: max(MIN_POINTS, int(np.argmin(typical)) + 1)]
    noise = 1.4826 * float(np.median(np.abs(np.diff(calm, 2)))) / math.sqrt(6)
    noise = max(noise, float(np.finfo(np.float32).eps) * abs(plateau))
    clip = plateau + max(2 * (plateau - float(typical.min())), 5 * noise)
    return LossCurve(x, _kernel_average(x, np.minimum(typical, clip), bandwidth), plateau, noise)


def _median_of_three(y: Array) -> Array:
    """Each loss or the middle one of it and its neighbours: a single lucky or unlucky batch is gone."""
    return np.concatenate([y[:1], np.median([y[:-2], y[1:-1], y[2:]], axis=0), y[-1:]])


def _kernel_average(x: Array, y: Array, bandwidth: float) -> Array:
    """Each loss counts for the piece of the axis that it stands for, or a linear sweep would be all large rates."""
    width = np.minimum(np.gradient(x), bandwidth)
    weights = np.exp(-0.5 * np.square((x[:, None] - x[None, :]) / bandwidth)) * width
    average: Array = weights @ y / weights.sum(axis=1)
    return average


#: A dip is the first valley when it is at least this part of the deepest one; smaller ones are luck of the draw.
MIN_DEPTH = 0.2

#: The edge: so much of the fall is lost again.
LOST_AT_EDGE = 0.25


class Valley(NamedTuple):
    """The first valley of a curve.

    Attributes:
        log_lrs: log10 of the learning rates, shape (points,).
        smoothed: The smooth loss there, shape (points,).
        plateau: The loss before anything is learned.
        bottom: Index of the smallest smooth loss in the valley.
        signal: Depth in standard deviations of one loss.
    """

    log_lrs: Array
    smoothed: Array
    plateau: float
    bottom: int
    signal: float

    @property
    def fall(self) -> float:
        """Depth below the plateau."""
        return self.plateau - float(self.smoothed[self.bottom])

    def log_lr_at(self, share: float) -> float | None:
        """log10 of the rate below the bottom from which on more than ``share`` of the fall is done.

        The last crossing before the bottom, since a dip on the way there is noise; a straight line between two rates.
        """
        level = self.plateau - share * self.fall
        above = np.flatnonzero(self.smoothed[: self.bottom] > level)
        return self._between(int(above[-1]), level) if len(above) else None

    def log_lr_of_edge(self) -> float | None:
        """log10 of the first rate above the bottom where a quarter of the fall is lost again."""
        level = self.plateau - (1 - LOST_AT_EDGE) * self.fall
        above = np.flatnonzero(self.smoothed[self.bottom :] > level)
        return self._between(self.bottom + int(above[0]) - 1, level) if len(above) else None

    def _between(self, left: int, level: float) -> float:
        """Where the straight line from point ``left`` to the next crosses ``level``."""
        (x0, x1), (y0, y1) = self.log_lrs[left : left + 2], self.smoothed[left : left + 2]
        return float(x0 + (x1 - x0) * (level - y0) / (y1 - y0))


def first_valley(curve: LossCurve, min_signal: float) -> Valley:
    """The first dip that is as deep as ``min_signal`` and not a small part of the deepest; else the deepest.

    It ends where the curve is back on the plateau: what falls after that starts from a network that blew up.
    """
    depth = curve.plateau - curve.smoothed
    deep = depth >= max(MIN_DEPTH * float(depth.max()), min_signal * curve.noise)
    start = int(np.argmax(deep)) if deep.any() else int(np.argmax(depth))
    back = np.flatnonzero(depth[start:] <= 0)
    end = start + int(back[0]) if len(back) and back[0] > 0 else len(depth)
    bottom = start + int(np.argmax(depth[start:end]))
    signal = float(depth[bottom]) / curve.noise if curve.noise > 0 else (np.inf if depth[bottom] > 0 else 0.0)
    return Valley(curve.log_lrs, curve.smoothed, curve.plateau, bottom, signal)
