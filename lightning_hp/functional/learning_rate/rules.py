"""The rules that read a learning rate from a range test: all by name, and those of other finders as functions.

Each function takes one sweep as it was recorded: rising learning rates and raw losses of shape (steps,), with NaN where
the sweep stopped earlier. Each smooths and cuts the curve as its source does. Each returns ``None`` where its source
would fail, on a curve that is too short, and on a curve that never falls, where the answer would have no meaning.

Pseudo-code, with lr the rates that are left after the cut:

    steepest:  y = moving average (0.95, from the first loss)[10:-5];  lr at the smallest gradient of y over log(lr)
    the rest:  y = debiased moving average (0.98)[steps / 10 : -5]
    steep:     lr at the smallest forward difference of y over log(lr)
    valley:    n = length of the longest falling subsequence of y, which ends at index e;  lr[e - n + n / 3 + n / 6]
    slide:     largest i where the gradients of y at i and at i + 15 differ by 0.005 or less;  lr[i + 1]
    minimum:   lr at the smallest y, divided by 10

References:
    D. Silva, torch-lr-finder 0.2.2 (``steepest``).
    J. Howard and S. Gugger, fastai 2.8, ``callback.schedule`` (the others; ``valley`` after ESRI, ``slide`` after
    Novetta).

"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from lightning_hp.functional.checks import wrong_value
from lightning_hp.functional.learning_rate.curve import Array, check_sweep

#: Each rule by name, and what it looks for: short trainings, the three rules of
#: :func:`~lightning_hp.functional.suggest_lr`, and those of other finders.
RULES: Mapping[str, str] = {
    "trainings": "short trainings",
    "fall": "two thirds of the fall",
    "one_cycle": "peak for a one-cycle schedule",
    "half": "half-way down",
    "steepest": "steepest descent",
    "valley": "longest valley",
    "slide": "interval slide",
    "minimum": "minimum / 10",
}


def steepest_lr(lrs: ArrayLike, losses: ArrayLike) -> float | None:
    """The rate where the loss falls fastest per factor of the learning rate: the rule of torch-lr-finder.

    The moving average starts at the first loss and gives each new loss the weight 0.05. The first 10 and the last 5
    steps are dropped.

    Args:
        lrs: Learning rates, rising, shape (steps,).
        losses: Losses, shape (steps,). Losses that are not finite are left out.

    Returns:
        The learning rate, or ``None`` if there are fewer than 17 losses or none falls.

    Raises:
        TypeError: If an argument is no sequence of numbers.
        ValueError: If ``lrs`` are not finite, positive and strictly rising, or the shapes do not match.

    Note:
        Lightning takes the slope per unit of the learning rate instead. That divides the noise at tiny rates by tiny
        steps, so its answer is often a tiny rate. On a long and noisy fall the answer is wrong: the steepest step is
        then due to a single batch. O(steps).

    Example:
        >>> lrs = np.geomspace(1e-5, 1, 51)
        >>> fall = 1 / (1 + (lrs / 1e-2) ** 2)  # steepest at 1e-2; the moving average lags behind
        >>> f"{steepest_lr(lrs, fall):.3f}"
        '0.032'

    """
    rates, curve = _recorded(lrs, losses)
    finite = np.flatnonzero(np.isfinite(curve))
    rates, curve = rates[finite], curve[finite]
    if len(curve) < 17:
        return None
    rates, curve = rates[10:-5], _moving_average(curve, beta=0.95, debias=False)[10:-5]
    slope = np.gradient(curve, np.log(rates))
    return float(rates[np.argmin(slope)]) if slope.min() < 0 else None


def steep_lr(lrs: ArrayLike, losses: ArrayLike) -> float | None:
    """The rate where the step to the next one falls fastest per factor of the learning rate: fastai's ``steep``.

    As :func:`steepest_lr`, with a forward difference and with the smoothing and cuts of :func:`valley_lr`.

    Args:
        lrs: Learning rates, rising, shape (steps,).
        losses: Losses, shape (steps,). The curve ends at the first that is not finite.

    Returns:
        The learning rate, or ``None`` if there are too few losses or none falls.

    Raises:
        TypeError: If an argument is no sequence of numbers.
        ValueError: If ``lrs`` are not finite, positive and strictly rising, or the shapes do not match.

    Note:
        It has the same limits as :func:`steepest_lr`. O(steps).

    Example:
        >>> lrs = np.geomspace(1e-5, 1, 51)
        >>> f"{steep_lr(lrs, 1 / (1 + (lrs / 1e-2) ** 2)):.3f}"
        '0.025'

    """
    rates, curve = _as_fastai(lrs, losses)
    if len(curve) < 2:
        return None
    slope = np.diff(curve) / np.diff(np.log(rates))
    return float(rates[np.argmin(slope)]) if slope.min() < 0 else None


def valley_lr(lrs: ArrayLike, losses: ArrayLike) -> float | None:
    """Half-way along the longest falling part of the curve: fastai's ``valley``, its default.

    The moving average is debiased, with the factor 0.98. The first tenth of the planned steps and the last 5 recorded
    ones are dropped. The rule takes the longest falling subsequence as if its members were neighbours, and in it the
    point after a third plus a sixth.

    Args:
        lrs: Learning rates, rising, shape (steps,).
        losses: Losses, shape (steps,). The curve ends at the first that is not finite.

    Returns:
        The learning rate, or ``None`` if there are too few losses or none falls.

    Raises:
        TypeError: If an argument is no sequence of numbers.
        ValueError: If ``lrs`` are not finite, positive and strictly rising, or the shapes do not match.

    Note:
        It counts steps and not how far the loss falls, so a long plateau with a slow drift misleads it. O(steps
        squared).

    Example:
        >>> lrs = np.geomspace(1e-5, 1, 51)
        >>> f"{valley_lr(lrs, 1 / (1 + (lrs / 1e-2) ** 2)):.4f}"
        '0.0020'

    """
    rates, curve = _as_fastai(lrs, losses)
    if len(curve) == 0:
        return None
    lengths = np.ones(len(curve), dtype=int)  # of the longest falling subsequence that ends at each point
    for i in range(1, len(curve)):
        lengths[i] += lengths[:i][curve[:i] > curve[i]].max(initial=0)
    end = int(np.argmax(lengths))
    length = int(lengths[end])
    if length < 2:
        return None
    return float(rates[end - length + int(length / 3) + int(length / 3 / 2)])


def slide_lr(lrs: ArrayLike, losses: ArrayLike) -> float | None:
    """The last place where the curve is equally steep at both ends of 15 steps: fastai's ``slide``.

    The interval of 15 steps moves from the end of the curve to smaller rates. Slopes that differ by 0.005 or less, in
    the unit of the loss per step, are equal. Smoothing and cuts are those of :func:`valley_lr`.

    Args:
        lrs: Learning rates, rising, shape (steps,).
        losses: Losses, shape (steps,). The curve ends at the first that is not finite.

    Returns:
        The learning rate, or ``None`` if fewer than 16 losses are left or none falls.

    Raises:
        TypeError: If an argument is no sequence of numbers.
        ValueError: If ``lrs`` are not finite, positive and strictly rising, or the shapes do not match.

    Note:
        The answer depends on the scale of the loss, which has to be near 1, and on the number of steps, which has to be
        about 100. O(steps).

    Example:
        >>> lrs = np.geomspace(1e-5, 1, 51)
        >>> f"{slide_lr(lrs, 1 / (1 + (lrs / 1e-2) ** 2)):.4f}"
        '0.0100'

    """
    rates, curve = _as_fastai(lrs, losses)
    if len(curve) < 16 or curve.min() >= curve[0]:
        return None
    slope = np.gradient(curve)
    equal = np.flatnonzero(np.abs(slope[15:] - slope[:-15]) <= 0.005)  # by the left end of the interval
    # The interval before the slopes are equal. If they are equal at once, the first one.
    left = int(equal[-1]) + 1 if len(equal) else 0
    return float(rates[min(left, len(curve) - 16)])


def minimum_lr(lrs: ArrayLike, losses: ArrayLike) -> float | None:
    """A tenth of the rate where the loss is smallest: fastai's ``minimum``, the best of these rules on real trainings.

    Smoothing and cuts are those of :func:`valley_lr`.

    Args:
        lrs: Learning rates, rising, shape (steps,).
        losses: Losses, shape (steps,). The curve ends at the first that is not finite.

    Returns:
        The learning rate, or ``None`` if there are too few losses or none falls.

    Raises:
        TypeError: If an argument is no sequence of numbers.
        ValueError: If ``lrs`` are not finite, positive and strictly rising, or the shapes do not match.

    Note:
        It is wrong where the fall is narrower than a decade, or where the curve has a second, later minimum. O(steps).

    Example:
        >>> lrs = np.geomspace(1e-5, 1, 51)
        >>> valley = np.square(np.log10(lrs / 1e-2))  # smallest at 1e-2; the moving average lags behind
        >>> f"{minimum_lr(lrs, valley):.3f}"
        '0.020'

    """
    rates, curve = _as_fastai(lrs, losses)
    if len(curve) == 0 or curve.min() >= curve[0]:
        return None
    return float(rates[np.argmin(curve)]) / 10


def _recorded(lrs: ArrayLike, losses: ArrayLike) -> tuple[Array, Array]:
    """All learning rates, and the losses up to the last finite one, which is what a finder that stops early records.

    A constant loss gives no losses, since rounding would make its moving average fall.
    """
    rates, sweeps = check_sweep(lrs, losses)
    if len(sweeps) != 1:
        wrong_value("losses.shape", f"({len(rates)},), which is one sweep", sweeps.shape)
    finite = np.flatnonzero(np.isfinite(sweeps[0]))
    length = int(finite[-1]) + 1 if len(finite) and np.ptp(sweeps[0, finite]) > 0 else 0
    return rates, sweeps[0, :length]


def _as_fastai(lrs: ArrayLike, losses: ArrayLike) -> tuple[Array, Array]:
    """The learning rates and the smoothed losses that fastai gives to its rules."""
    rates, curve = _recorded(lrs, losses)
    drop = len(rates) // 10
    curve = _moving_average(curve, beta=0.98, debias=True)[drop:-5]
    lost = np.flatnonzero(np.isnan(curve))
    curve = curve[: lost[0]] if len(lost) else curve
    return rates[drop : drop + len(curve)], curve


def _moving_average(losses: Array, beta: float, debias: bool) -> Array:
    """Exponential moving average. With ``debias`` it starts at zero and is divided by the sum of its weights."""
    averages = np.empty_like(losses)
    average = 0.0 if debias or len(losses) == 0 else float(losses[0])
    for i, loss in enumerate(losses):
        average = beta * average + (1 - beta) * float(loss)
        averages[i] = average / (1 - beta ** (i + 1)) if debias else average
    return averages
