"""The learning rate that a range test suggests, or the reason why it suggests none.

Pseudo-code:

    curve  = smooth median loss over log10(lr), with its plateau and its noise
    valley = first valley of the curve
    if its depth is less than min_signal times the noise, or the range cuts the valley off:
        suggest nothing, and say why
    lr        = rate where 2/3 of the fall to the bottom are done
    interval  = rates where 50 % and 80 % of the fall are done
    edge      = rate above the bottom where a quarter of the fall is lost again
    one_cycle = geometric mean of edge and the rate where 25 % of the fall are done
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from lightning_hp.functional.checks import check_instance, check_number, wrong_value
from lightning_hp.functional.learning_rate.curve import (
    MIN_POINTS,
    Array,
    check_lrs,
    check_sweep,
    first_valley,
    median_of_repeats,
    read_curve,
)
from lightning_hp.functional.learning_rate.rules import minimum_lr, slide_lr, steepest_lr, valley_lr

#: If half of the fall is done within this many decades of an end of the range, the range cuts the fall off.
NEAR_END = 0.75

#: Depth of a valley, in standard deviations of one loss, that is no chance; sweeps with few steps need a deeper one.
MIN_SIGNAL, MIN_SIGNAL_OF_FEW, FEW_STEPS = 3.0, 5.0, 50

#: Standard deviation of the kernel in decades.
BANDWIDTH = 0.25

#: The lowest loss is the mean over this many steps in a row.
IN_A_ROW = 5

#: Depth of a valley that is more than rounding.
FAINT = 0.01

#: The fall begins where this share of it is done.
BEGUN = 0.1


@dataclass(frozen=True, eq=False)
class LRSuggestion:
    """What was read from a range test.

    Attributes:
        lr: The suggested learning rate, where two thirds of the fall are done. ``None`` if the curve supports none.
        interval: The rates at 50 % and at 80 % of the fall.
        one_cycle: A peak rate for a one-cycle schedule: the geometric mean of the rate at 25 % of the fall and `edge`.
        edge: The rate above the bottom where a quarter of the fall is lost again, or the last one before the losses
            stopped being finite. ``None`` if the range ended earlier; then `one_cycle` uses the end of the range, which
            is lower.
        rules: The rate by every rule of ``RULES``: ``fall`` (= `lr`), ``one_cycle``, ``half`` (50 % of the fall), and
            ``steepest``, ``valley``, ``slide``, ``minimum`` of other finders. They may have an answer where `lr` is
            ``None``.
        per_repeat: The `lr` of each repeat by itself. Their spread shows how much the batches matter.
        smoothed: The smooth loss, shape (steps,), NaN where the sweep stopped earlier.
        median: The median of the repeats, shape (steps,), NaN where the sweep stopped earlier.
        plateau: The loss before anything is learned, NaN if there are too few losses.
        signal: Depth of the fall in standard deviations of one loss.
        reason: Why there is no suggestion, in one sentence; ``None`` if there is one.
        note: A caveat if the range is too narrow, in one sentence, or ``None``.

    Example:
        >>> found = suggest_lr(np.geomspace(1e-6, 10, 99), np.interp(np.arange(99), [0, 30, 70, 98], [2, 2, 1, 5]))
        >>> found.interval[0] < found.lr < found.interval[1] < found.edge
        True
        >>> found.reason is None and found.rules["fall"] == found.lr
        True

    """

    lr: float | None = None
    interval: tuple[float, float] | None = None
    one_cycle: float | None = None
    edge: float | None = None
    rules: dict[str, float | None] = field(default_factory=dict)
    per_repeat: tuple[float | None, ...] = ()
    smoothed: Array = field(default_factory=lambda: np.empty(0), repr=False)
    median: Array = field(default_factory=lambda: np.empty(0), repr=False)
    plateau: float = math.nan
    signal: float = 0.0
    reason: str | None = None
    note: str | None = None


def suggest_lr(
    lrs: ArrayLike, losses: ArrayLike, *, bandwidth: float = BANDWIDTH, min_signal: float | None = None
) -> LRSuggestion:
    """Reads a learning rate from a range test: two thirds of the way down the first valley of the smooth loss.

    The first valley ends where the loss is back on the plateau, since some networks have a second dip after they
    diverged. There is no suggestion if the valley is not clearly deeper than the noise, or if the range ends within it.

    Args:
        lrs: Learning rates, positive and rising, shape (steps,). About 14 per decade are best: a slower sweep has
            learned more when it reaches the same rate, which lowers the answer.
        losses: Losses of any sign and scale, shape (steps,) or (repeats, steps), not finite where a sweep stopped
            earlier. Keep the losses of the explosion up to the stop: they show the edge.
        bandwidth: Standard deviation of the kernel in decades, > 0. Below 0.2 single batches become visible.
        min_signal: The smallest depth of a valley that gives a suggestion, in standard deviations of one loss, > 0.
            ``None``: 3 for sweeps of 50 steps or more, 5 for shorter ones, whose kernel averages fewer losses. Pure
            noise is that deep in 1 of 1500 sweeps of 112 steps, and in 1 of 60 of 15 steps.

    Returns:
        The suggestion, its signal, and the answer of every other rule.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If ``lrs`` are not finite, positive and strictly rising, the shapes do not match, or an option is
            out of its range.

    Note:
        The rule of two thirds is specific to this library. O(steps squared) for each repeat: some milliseconds for 100
        steps. A range test says little where a few steps say little about the training: to fine-tune a pretrained
        transformer, the best rate is often far below the fall of its training loss.

    References:
        L. N. Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017 (the range test).

    Example:
        >>> lrs = np.geomspace(1e-6, 10, 99)
        >>> fall = 1 / (1 + 1e-3 / lrs)  # half-way down at 1e-3, two thirds at 2e-3
        >>> found = suggest_lr(lrs, 2.3 - 2 * fall + (lrs / 0.3) ** 4)
        >>> f"{found.lr:.4f} in {found.interval[0]:.4f} .. {found.interval[1]:.4f}, edge {found.edge:.2f}"
        '0.0019 in 0.0009 .. 0.0038, edge 0.16'
        >>> suggest_lr(lrs, np.random.default_rng(0).normal(2.3, 0.1, size=99)).reason
        'The fall of the loss, from 2.312 to 2.253, is less than its noise, 0.079.'

    """
    bandwidth = check_number("bandwidth", bandwidth, above=0)
    rates, sweeps = check_sweep(lrs, losses)
    if min_signal is None:
        min_signal = MIN_SIGNAL if len(rates) >= FEW_STEPS else MIN_SIGNAL_OF_FEW
    min_signal = check_number("min_signal", min_signal, above=0, also="None")
    median = median_of_repeats(sweeps)
    found = _suggest_from_one(rates, median, bandwidth, min_signal)
    # Of a valley that may be chance they are known too, for a user who asks for one of them by name.
    faint = found if found.lr is not None else _suggest_from_one(rates, median, bandwidth, min_signal=FAINT)
    rules = {
        "fall": faint.lr,
        "one_cycle": faint.one_cycle,
        "half": None if faint.interval is None else faint.interval[0],
        "steepest": steepest_lr(rates, median),
        "valley": valley_lr(rates, median),
        "slide": slide_lr(rates, median),
        "minimum": minimum_lr(rates, median),
    }
    per_repeat = tuple(_suggest_from_one(rates, sweep, bandwidth, min_signal).lr for sweep in sweeps)
    return replace(found, rules=rules, per_repeat=per_repeat)


def exploding_rate(lrs: ArrayLike, losses: ArrayLike, suggestion: LRSuggestion) -> float:
    """The rate above which a range test explodes, also where it shows no valley.

    Args:
        lrs: Learning rates of the sweep, shape (steps,).
        losses: Its losses, shape (steps,) or (repeats, steps).
        suggestion: What :func:`suggest_lr` read from it.

    Returns:
        The edge of a deep valley; without one the last rate at which the smooth loss is not above the plateau by more
        than the noise of one loss.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the shapes do not match.

    Example:
        >>> lrs = np.geomspace(1e-6, 10, 99)
        >>> losses = 2.3 + (lrs / 0.3) ** 4
        >>> f"{exploding_rate(lrs, losses, suggest_lr(lrs, losses)):.3f}"
        '0.004'

    """
    check_instance("suggestion", suggestion, LRSuggestion, "an LRSuggestion")
    if suggestion.edge is not None and suggestion.signal >= MIN_SIGNAL_OF_FEW:
        return suggestion.edge
    rates, sweeps = check_sweep(lrs, losses)
    median = median_of_repeats(sweeps)
    finite = np.isfinite(median)
    if finite.sum() < MIN_POINTS:
        return float(rates[finite][-1] if finite.any() else rates[-1])
    curve = read_curve(rates, median, BANDWIDTH)
    below = np.flatnonzero(curve.smoothed <= curve.plateau + curve.noise)
    return float(10 ** curve.log_lrs[below[-1] if len(below) else 0])


def lowest_loss(lrs: ArrayLike, losses: ArrayLike) -> tuple[float, float]:
    """Where a range test has its lowest loss.

    Args:
        lrs: Learning rates of the sweep, shape (steps,).
        losses: Its losses, shape (steps,).

    Returns:
        The rate in the middle of the five steps in a row that have the lowest mean, and that mean; the last rate and
        infinity if there are no five whose losses are finite.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the shapes do not match.

    Example:
        >>> lrs = np.geomspace(1e-6, 10, 99)
        >>> losses = 2.3 + np.log10(lrs / 0.01) ** 2
        >>> rate, loss = lowest_loss(lrs, losses)
        >>> f"{rate:.3f}, {loss:.2f}"
        '0.010, 2.31'

    """
    rates, sweeps = check_sweep(lrs, losses)
    if len(rates) < IN_A_ROW:
        return float(rates[-1]), math.inf
    means = np.lib.stride_tricks.sliding_window_view(sweeps[0], IN_A_ROW).mean(axis=-1)
    if np.isnan(means).all():
        return float(rates[-1]), math.inf
    start = int(np.nanargmin(means))
    return float(rates[start + IN_A_ROW // 2]), float(means[start])


def falling_part(lrs: ArrayLike, suggestion: LRSuggestion) -> tuple[float, float] | None:
    """The learning rates between which the loss of a range test falls, for a second, finer sweep between them.

    Args:
        lrs: Learning rates of the sweep, shape (steps,).
        suggestion: What :func:`suggest_lr` read from it.

    Returns:
        The last rate at which less than a tenth of the fall is done, and the edge where the loss rises again, or the
        last rate with a loss if there is no edge. ``None`` if there is no suggestion.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If ``lrs`` are not finite, positive and strictly rising, or not those of the suggestion.

    Note:
        If the loss falls over the whole sweep, the part is the whole sweep.

    References:
        H. Homaei Rad, *Hyperparameters for Deep Neural Networks*, 2022 (the second sweep).

    Example:
        >>> from lightning_hp.functional import lr_range, suggest_lr
        >>> lrs = lr_range(1e-6, 10, 99)
        >>> losses = 2.3 - 2 / (1 + 1e-3 / lrs) + (lrs / 0.3) ** 4
        >>> low, high = falling_part(lrs, suggest_lr(lrs, losses))
        >>> f"{low:.5f} to {high:.2f}"
        '0.00008 to 0.16'

    """
    check_instance("suggestion", suggestion, LRSuggestion, "an LRSuggestion")
    rates = check_lrs(lrs)
    if suggestion.lr is None:
        return None
    if rates.shape != suggestion.smoothed.shape:
        wrong_value("lrs.shape", f"{suggestion.smoothed.shape}, the shape of the sweep that was read", rates.shape)
    finite = np.flatnonzero(np.isfinite(suggestion.smoothed))
    high = float(rates[finite[-1]]) if suggestion.edge is None else suggestion.edge
    inside = finite[rates[finite] <= high]
    smoothed = suggestion.smoothed[inside]
    bottom = int(np.argmin(smoothed))
    level = suggestion.plateau - BEGUN * (suggestion.plateau - smoothed[bottom])
    before = np.flatnonzero(smoothed[: bottom + 1] > level)
    return float(rates[inside[before[-1]]] if len(before) else rates[0]), high


def _suggest_from_one(lrs: Array, losses: Array, bandwidth: float, min_signal: float) -> LRSuggestion:
    """The suggestion of one curve, shape (steps,), without the rules of other finders."""
    finite = np.isfinite(losses)
    if finite.sum() < MIN_POINTS:
        reason = (
            f"Only {finite.sum()} of {len(lrs)} steps gave a finite loss, and at least {MIN_POINTS} are needed: look"
            " for NaN in the data or the model; if there is none, start at lower rates."
        )
        if not finite[0]:
            reason = f"The loss is not finite at the first step, {lrs[0]:.3g}: look for NaN in the data or the model."
        return LRSuggestion(smoothed=np.full(len(lrs), np.nan), median=losses, reason=reason)
    curve = read_curve(lrs, losses, bandwidth)
    valley = first_valley(curve, min_signal)
    smoothed = np.full(len(lrs), np.nan)
    smoothed[finite] = curve.smoothed
    nothing = LRSuggestion(smoothed=smoothed, median=losses, plateau=curve.plateau, signal=max(0.0, valley.signal))

    if valley.signal < min(1.0, min_signal) or valley.fall <= 0:
        start, bottom = f"{curve.plateau:.4g}", f"{curve.plateau - valley.fall:.4g}"
        reason = f"The fall of the loss, from {start} to {bottom}, is less than its noise, {curve.noise:.2g}."
        if start == bottom or valley.fall <= 0:
            reason = "The loss never fell below where it started."
        return replace(nothing, reason=reason)
    if valley.signal < min_signal:
        shown = math.floor(10 * valley.signal) / 10  # never rounded up to what is needed
        reason = f"The deepest dip of the loss is only {shown:g} times its noise ({min_signal:g} are needed)"
        return replace(nothing, reason=f"{reason}: it may be chance; try a wider range or more repeats.")
    quarter, half, two_thirds, most = (valley.log_lr_at(share) for share in (1 / 4, 1 / 2, 2 / 3, 4 / 5))
    if quarter is None or half is None or two_thirds is None or most is None:
        return replace(nothing, reason=f"The loss was falling from the smallest rate on, {lrs[0]:.3g}: lower it.")
    edge = valley.log_lr_of_edge()
    last = float(curve.log_lrs[-1])
    if edge is None and not finite[-1]:
        edge = last  # the next loss was not finite
    if edge is None and half > last - NEAR_END and half > curve.log_lrs[len(curve.log_lrs) // 2]:
        return replace(nothing, reason=f"The loss was still falling fast at the largest rate, {lrs[-1]:.3g}: raise it.")

    note = None
    if half < curve.log_lrs[0] + NEAR_END:
        note = f"The loss was falling almost from the smallest rate on, {lrs[0]:.3g}: a lower one would show the start."
    elif edge is None:
        note = f"The loss had not risen again at the largest rate, {lrs[-1]:.3g}: a larger one may be as good."
    return replace(
        nothing,
        lr=10**two_thirds,
        interval=(10**half, 10**most),
        one_cycle=10 ** max(two_thirds, (quarter + (last if edge is None else edge)) / 2),
        edge=None if edge is None else 10**edge,
        note=note,
    )
