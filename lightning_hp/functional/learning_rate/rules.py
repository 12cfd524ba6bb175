"""The rules by which other learning-rate finders read a loss curve, each with the smoothing and the cuts of its home.

All take one sweep as it was recorded: rising learning rates and raw losses of shape (steps,), NaN where the sweep did
not arrive. All return ``None`` where their home would fail, on a curve that is too short, or would point at a place
without meaning, on a curve that never falls. Where they go wrong is measured on the card of the finder.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lightning_hp.functional.learning_rate.curve import Array, check_sweep


def steepest_lr(lrs: ArrayLike, losses: ArrayLike) -> float | None:
    """The rate where the loss falls fastest per factor of the learning rate: torch-lr-finder's rule.

    Moving average with weight 0.05 for the new loss, started at the first one; the first 10 and the last 5 steps are
    dropped. Lightning's rule is the same per *unit* of the learning rate, which divides the noise at tiny rates by tiny
    steps and so points there; per factor, as here, the idea works.

    Args:
        lrs: Learning rates, rising, shape (steps,).
        losses: Losses, shape (steps,); those that are not finite are left out.

    Returns:
        The learning rate, or ``None`` with fewer than 17 losses or no fall.

    Raises:
        ValueError: If ``lrs`` do not rise or the shapes do not fit.

    Does not help where the fall is long and rugged: one lucky batch makes the steepest step. O(steps).

    Source: davidtvs/pytorch-lr-finder 0.2.2.

    Example:
        >>> lrs = np.geomspace(1e-5, 1, 51)
        >>> fall = 1 / (1 + (lrs / 1e-2) ** 2)  # steepest at 1e-2; the moving average lags behind
        >>> f"{steepest_lr(lrs, fall):.3f}"
        '0.032'

    """
    rates, curve = _recorded(lrs, losses)
    rates, curve = rates[np.isfinite(curve)], curve[np.isfinite(curve)]
    if len(curve) < 17:
        return None
    curve = _moving_average(curve, beta=0.95, debias=False)[10:-5]
    slope = np.gradient(curve, np.log(rates[10:-5]))
    return _rate(rates[10:-5], int(np.argmin(slope))) if slope.min() < 0 else None


def steep_lr(lrs: ArrayLike, losses: ArrayLike) -> float | None:
    """The rate where the step to the next one falls fastest per factor of the learning rate: fastai's ``steep``.

    As :func:`steepest_lr` with fastai's smoothing and cuts (see :func:`valley_lr`) and a forward difference.

    Args:
        lrs: Learning rates, rising, shape (steps,).
        losses: Losses, shape (steps,); the curve ends at the first that is not finite.

    Returns:
        The learning rate, or ``None`` with too few losses or no fall.

    Raises:
        ValueError: If ``lrs`` do not rise or the shapes do not fit.

    Does not help where :func:`steepest_lr` does not. O(steps).

    Source: fastai 2.8, ``callback.schedule``.

    Example:
        >>> lrs = np.geomspace(1e-5, 1, 51)
        >>> f"{steep_lr(lrs, 1 / (1 + (lrs / 1e-2) ** 2)):.3f}"
        '0.025'

    """
    rates, curve = _as_fastai(lrs, losses)
    if len(curve) < 2:
        return None
    slope = np.diff(curve) / np.diff(np.log(rates))
    return _rate(rates, int(np.argmin(slope))) if slope.min() < 0 else None


def valley_lr(lrs: ArrayLike, losses: ArrayLike) -> float | None:
    """Half-way into the longest falling run of the curve: fastai's ``valley``, its default.

    Debiased moving average (0.98); the first tenth of the planned steps and the last 5 recorded ones are dropped; then
    the longest falling subsequence, taken as if its members were neighbours, and in it a third plus a sixth.

    Args:
        lrs: Learning rates, rising, shape (steps,).
        losses: Losses, shape (steps,); the curve ends at the first that is not finite.

    Returns:
        The learning rate, or ``None`` with too few losses or no fall.

    Raises:
        ValueError: If ``lrs`` do not rise or the shapes do not fit.

    Does not help on a long, slowly drifting plateau: it counts steps, not how far they fall. O(steps squared).

    Source: fastai 2.8, ``callback.schedule`` (after ESRI).

    Example:
        >>> lrs = np.geomspace(1e-5, 1, 51)
        >>> f"{valley_lr(lrs, 1 / (1 + (lrs / 1e-2) ** 2)):.4f}"
        '0.0020'

    """
    rates, curve = _as_fastai(lrs, losses)
    if len(curve) == 0:
        return None
    run = np.ones(len(curve), dtype=int)  # length of the longest falling subsequence that ends here
    for i in range(1, len(curve)):
        run[i] += run[:i][curve[:i] > curve[i]].max(initial=0)
    end = int(np.argmax(run))
    if run[end] < 2:
        return None
    length = int(run[end])
    return _rate(rates, end - length + int(length / 3) + int(length / 3 / 2))


def slide_lr(lrs: ArrayLike, losses: ArrayLike) -> float | None:
    """A ruler of 15 steps slid down from the explosion until both ends are equally steep: fastai's ``slide``.

    Smoothing and cuts as for :func:`valley_lr`. "Equally steep" is a difference of slopes of 0.005 or less, in the
    unit of the loss and per step, so the answer moves when the loss is scaled.

    Args:
        lrs: Learning rates, rising, shape (steps,).
        losses: Losses, shape (steps,); the curve ends at the first that is not finite.

    Returns:
        The learning rate, or ``None`` with fewer than 16 losses left or no fall.

    Raises:
        ValueError: If ``lrs`` do not rise or the shapes do not fit.

    Does not help on losses far from 1 in scale, or on finer sweeps than 100 steps. O(steps).

    Source: fastai 2.8, ``callback.schedule`` (after Novetta).

    Example:
        >>> lrs = np.geomspace(1e-5, 1, 51)
        >>> f"{slide_lr(lrs, 1 / (1 + (lrs / 1e-2) ** 2)):.4f}"
        '0.0100'

    """
    rates, curve = _as_fastai(lrs, losses)
    if len(curve) < 16 or curve.min() >= curve[0]:
        return None
    slope = np.gradient(curve)
    level = np.abs(slope[15:] - slope[:-15]) <= 0.005  # ruler from i to i + 15, for each left end i
    # The left end of the last ruler before the slopes agree; the first position counts in any case.
    return _rate(rates, min(int(np.flatnonzero(level)[-1]) + 1 if level.any() else 0, len(level) - 1))


def minimum_lr(lrs: ArrayLike, losses: ArrayLike) -> float | None:
    """A tenth of the rate where the loss is smallest: fastai's ``minimum``, the best of these rules on real trainings.

    Smoothing and cuts as for :func:`valley_lr`.

    Args:
        lrs: Learning rates, rising, shape (steps,).
        losses: Losses, shape (steps,); the curve ends at the first that is not finite.

    Returns:
        The learning rate, or ``None`` with too few losses or no fall.

    Raises:
        ValueError: If ``lrs`` do not rise or the shapes do not fit.

    Does not help where the fall is narrower than a decade, or where the curve has a second, later minimum. O(steps).

    Source: fastai 2.8, ``callback.schedule``.

    Example:
        >>> lrs = np.geomspace(1e-5, 1, 51)
        >>> valley = np.square(np.log10(lrs / 1e-2))  # smallest at 1e-2; the moving average lags behind
        >>> f"{minimum_lr(lrs, valley):.3f}"
        '0.020'

    """
    rates, curve = _as_fastai(lrs, losses)
    if len(curve) == 0 or curve.min() >= curve[0]:
        return None
    return _rate(rates, int(np.argmin(curve))) / 10


def _recorded(lrs: ArrayLike, losses: ArrayLike) -> tuple[Array, Array]:
    """One sweep up to its last finite loss: what a finder that stops early would have written down.

    A constant loss gives nothing: an average of it falls by rounding alone.
    """
    rates, sweeps = check_sweep(lrs, losses)
    if len(sweeps) != 1:
        raise ValueError(f"Expected `losses` of one sweep, shape ({len(rates)},), but got {len(sweeps)} sweeps.")
    reached = np.flatnonzero(np.isfinite(sweeps[0]))
    length = int(reached[-1]) + 1 if len(reached) and np.ptp(sweeps[0, reached]) > 0 else 0
    return rates[:length], sweeps[0, :length]


def _as_fastai(lrs: ArrayLike, losses: ArrayLike) -> tuple[Array, Array]:
    """The part of the smoothed curve that fastai hands to its rules."""
    rates, curve = _recorded(lrs, losses)
    drop = np.size(lrs) // 10
    rates, curve = rates[drop:-5], _moving_average(curve, beta=0.98, debias=True)[drop:-5]
    lost = np.flatnonzero(np.isnan(curve))
    return (rates[: lost[0]], curve[: lost[0]]) if len(lost) else (rates, curve)


def _moving_average(losses: Array, beta: float, debias: bool) -> Array:
    """Exponential moving average; ``debias`` starts it at zero and divides by the weight seen so far."""
    averages = np.empty_like(losses)
    average = 0.0 if debias or len(losses) == 0 else float(losses[0])
    for i, loss in enumerate(losses):
        average = beta * average + (1 - beta) * float(loss)
        averages[i] = average / (1 - beta ** (i + 1)) if debias else average
    return averages


def _rate(rates: Array, index: int) -> float:
    return float(rates[index])
