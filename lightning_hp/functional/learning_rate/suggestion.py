"""Which learning rate a range test speaks for, and whether it speaks for any."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from lightning_hp.functional.learning_rate.curve import (
    MIN_POINTS,
    Array,
    check_sweep,
    first_valley,
    median_of_repeats,
    read_curve,
)
from lightning_hp.functional.learning_rate.rules import minimum_lr, slide_lr, steepest_lr, valley_lr

#: If half of the fall lies nearer than this to an end of the range, in decades, the range decided and not the curve.
NEAR_END = 0.75


@dataclass(frozen=True, eq=False)
class LRSuggestion:
    """What was read from a range test.

    Attributes:
        lr: The suggested learning rate, where two thirds of the fall are done. ``None`` if the curve supports none.
        interval: The rates at 50 % and at 80 % of the fall; anything between them is a fair choice.
        one_cycle: A peak rate for a one-cycle schedule: the geometric mean of the rate at 25 % of the fall and `edge`.
        edge: The rate above the bottom where a quarter of the fall is lost again, or the last one before the losses
            stopped being finite. ``None`` if the range ended before; then `one_cycle` takes its end, which is lower.
        rules: The rate by every rule: ``fall`` (= `lr`), ``one_cycle``, ``half`` (50 % of the fall), and those of other
            finders, ``steepest``, ``valley``, ``slide``, ``minimum``, which answer also where we refuse.
        per_repeat: What each repeat alone would have suggested: their spread is the luck of the batches.
        smoothed: The smooth loss, shape (steps,), NaN where the sweep did not arrive.
        median: The median of the repeats, shape (steps,), NaN where the sweep did not arrive.
        plateau: The loss before anything is learned, NaN if there are too few losses to tell.
        signal: Depth of the fall in standard deviations of one loss.
        reason: Why there is no suggestion, in one sentence; ``None`` if there is one.
        note: What to know about a suggestion that the range cut short, in one sentence, or ``None``.

    Costs nothing. Does not hold the losses of each repeat, only their median.

    Source: as :func:`suggest_lr`.

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


def suggest_lr(lrs: ArrayLike, losses: ArrayLike, *, bandwidth: float = 0.25, min_signal: float = 5.0) -> LRSuggestion:
    """Reads the learning rate from a range test: two thirds of the way down the first valley of the smooth loss.

    Median over the repeats, losses clipped at twice the fall above the plateau, a Gaussian kernel in log10(lr). The
    first valley ends where the loss is back on the plateau, since some networks dip again after they blew up. There is
    no suggestion when the valley is not clearly deeper than the noise, or when the range ended in the middle of it.

    Args:
        lrs: Learning rates, positive and rising, shape (steps,). 12 to 15 for each factor of ten read best: a slower
            sweep has learned more when it reaches the same rate, which moves the answer down.
        losses: Losses of any sign and scale, shape (steps,) or (repeats, steps), not finite where a sweep did not
            arrive. Keep the losses of the explosion, up to where the sweep was stopped: they mark the edge.
        bandwidth: Standard deviation of the kernel in decades, > 0. Below 0.2 single batches begin to show.
        min_signal: Depth of the valley in standard deviations of one loss, below which there is no suggestion, > 0.

    Returns:
        The suggestion, how sure it is, and what every other rule says.

    Raises:
        ValueError: If ``lrs`` do not rise, the shapes do not fit, or an option is out of its range.

    Costs O(steps squared) for each repeat: some milliseconds for 100 steps.

    Does not help where a few steps say little about the training: fine-tuning a pretrained transformer often wants a
    rate far below the fall of its training loss.

    Source: the rule is ours; the range test is Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017.

    Example:
        >>> lrs = np.geomspace(1e-6, 10, 99)
        >>> fall = 1 / (1 + 1e-3 / lrs)  # half-way down at 1e-3, two thirds at 2e-3
        >>> found = suggest_lr(lrs, 2.3 - 2 * fall + (lrs / 0.3) ** 4)
        >>> f"{found.lr:.4f} in {found.interval[0]:.4f} .. {found.interval[1]:.4f}, edge {found.edge:.2f}"
        '0.0019 in 0.0009 .. 0.0038, edge 0.16'
        >>> suggest_lr(lrs, np.random.default_rng(0).normal(2.3, 0.1, size=99)).reason
        'The loss never fell below where it started.'

    """
    for name, value in (("bandwidth", bandwidth), ("min_signal", min_signal)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"Expected `{name}` to be a finite number > 0, but got {value!r}.")
    rates, sweeps = check_sweep(lrs, losses)
    median = median_of_repeats(sweeps)
    found = _read(rates, median, bandwidth, min_signal)
    rules = {
        "fall": found.lr,
        "one_cycle": found.one_cycle,
        "half": None if found.interval is None else found.interval[0],
        "steepest": steepest_lr(rates, median),
        "valley": valley_lr(rates, median),
        "slide": slide_lr(rates, median),
        "minimum": minimum_lr(rates, median),
    }
    alone = tuple(_read(rates, sweep, bandwidth, min_signal).lr for sweep in sweeps)
    return replace(found, rules=rules, per_repeat=alone)


def _read(lrs: Array, losses: Array, bandwidth: float, min_signal: float) -> LRSuggestion:
    """Our own reading of one curve, shape (steps,)."""
    reached = np.isfinite(losses)
    if reached.sum() < MIN_POINTS:
        reason = f"Only {reached.sum()} of {len(lrs)} steps gave a finite loss, and {MIN_POINTS} are the least to read."
        return LRSuggestion(smoothed=np.full(len(lrs), np.nan), median=losses, reason=reason)
    curve = read_curve(lrs, losses, bandwidth)
    valley = first_valley(curve, min_signal)
    smoothed = np.full(len(lrs), np.nan)
    smoothed[reached] = curve.smoothed
    seen = LRSuggestion(smoothed=smoothed, median=losses, plateau=curve.plateau, signal=max(0.0, valley.signal))

    if valley.signal < 1:
        return replace(seen, reason="The loss never fell below where it started.")
    if valley.signal < min_signal:
        shown = math.floor(10 * valley.signal) / 10  # never rounded up to what was needed
        reason = f"The deepest dip of the loss is only {shown:g} times its noise ({min_signal:g} are needed)"
        return replace(seen, reason=f"{reason}: nothing sure was learned; try a wider range or more repeats.")
    quarter, half, two_thirds, most = (valley.log_lr_at(share) for share in (1 / 4, 1 / 2, 2 / 3, 4 / 5))
    if quarter is None or half is None or two_thirds is None or most is None:
        return replace(seen, reason=f"The loss was falling from the smallest rate on, {lrs[0]:.3g}: lower it.")
    edge = valley.log_lr_of_edge()
    last = float(curve.log_lrs[-1])
    if edge is None and not reached[-1]:
        edge = last  # the next loss was not finite
    if edge is None and half > last - NEAR_END and half > curve.log_lrs[len(curve.log_lrs) // 2]:
        return replace(seen, reason=f"The loss was still falling fast at the largest rate, {lrs[-1]:.3g}: raise it.")

    note = None
    if half < curve.log_lrs[0] + NEAR_END:
        note = f"The loss was falling almost from the smallest rate on, {lrs[0]:.3g}: a lower one would show the start."
    elif edge is None:
        note = f"The loss had not risen again at the largest rate, {lrs[-1]:.3g}: a larger one may do as well."
    return replace(
        seen,
        lr=10**two_thirds,
        interval=(10**half, 10**most),
        one_cycle=10 ** ((quarter + (last if edge is None else edge)) / 2),
        edge=None if edge is None else 10**edge,
        note=note,
    )


#: The fall begins where so much of it is done.
BEGUN = 0.1


def falling_part(lrs: ArrayLike, suggestion: LRSuggestion) -> tuple[float, float] | None:
    """The learning rates between which the loss of a range test falls: for a second, zoomed sweep over them.

    Args:
        lrs: Learning rates of the sweep, shape (steps,).
        suggestion: What :func:`suggest_lr` read from it.

    Returns:
        The last rate at which less than a tenth of the fall is done, and the edge where the loss rises again, or the
        end of what was reached; ``None`` if the curve supports no suggestion.

    Costs nothing. Does not help where the whole sweep is a fall: the part is then the sweep.

    Source: the second look is advised by H. Homaei Rad, *Hyperparameters for Deep Neural Networks*, 2022.

    Example:
        >>> from lightning_hp.functional import lr_range, suggest_lr
        >>> lrs = lr_range(1e-6, 10, 99)
        >>> losses = 2.3 - 2 / (1 + 1e-3 / lrs) + (lrs / 0.3) ** 4
        >>> low, high = falling_part(lrs, suggest_lr(lrs, losses))
        >>> f"{low:.5f} to {high:.2f}"
        '0.00008 to 0.16'

    """
    if suggestion.lr is None:
        return None
    rates = np.asarray(lrs, dtype=np.float64)
    reached = np.flatnonzero(np.isfinite(suggestion.smoothed))
    high = float(rates[reached[-1]]) if suggestion.edge is None else suggestion.edge
    inside = reached[rates[reached] <= high]
    smoothed = suggestion.smoothed[inside]
    bottom = int(np.argmin(smoothed))
    level = suggestion.plateau - BEGUN * (suggestion.plateau - smoothed[bottom])
    before = np.flatnonzero(smoothed[: bottom + 1] > level)
    return float(rates[inside[before[-1]]] if len(before) else rates[0]), high
