"""Which rates short trainings try: from a first one to a rate that learns, then to the neighbours of the best one.

Pseudo-code:

    train at a first rate: what the range test suggests, or the present rate of a training that has begun
    train half a decade lower and half a decade higher
    while no training lowers the loss: train a decade lower and a decade higher, in turn; higher while that is better
    while the best rate has a neighbour half a decade away that was not tried: train at it
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from lightning_hp.functional.learning_rate.training_losses import best_rate

#: Ratio of neighbouring rates: half a decade.
STEP = math.sqrt(10)

#: The best rates lie around this share of the rate at which the range test explodes. Where it shows no deep valley, its
#: losses rise only far above the rates that learn.
OF_EDGE, OF_EDGE_WITHOUT_VALLEY = 0.1, 0.05

#: The best rates lie around this share of the rate at which the range test has its lowest loss.
OF_LOWEST = 1 / STEP

#: The present rate is the first one unless it is further from these than this factor.
PLAUSIBLE = 30.0

#: Where two rates differ by less than this share of the best fall, the search goes on around the lower one.
TIE = 0.05


def first_rate(edge: float, lowest: float | None, has_valley: bool, present: float | None = None) -> float:
    """The rate of the first training.

    Args:
        edge: The rate at which the range test explodes, > 0.
        lowest: The rate at which the range test has its lowest loss, > 0; ``None`` if that loss may be chance.
        has_valley: Whether the range test shows a deep valley.
        present: The rate of a training that has begun, > 0; ``None`` before a training.

    Returns:
        The geometric mean of what both say; each of them is a decade off now and then. The present rate if it is
        within a factor of 30 of that.

    """
    guess = (OF_EDGE if has_valley else OF_EDGE_WITHOUT_VALLEY) * edge
    if lowest is not None:
        guess = math.sqrt(guess * OF_LOWEST * lowest)
    return guess if present is None else min(max(present, guess / PLAUSIBLE), guess * PLAUSIBLE)


def next_rate(
    final_losses: Mapping[float, float],
    first: float,
    lowest: float,
    highest: float,
    unchanged: tuple[float, float] | None,
) -> float | None:
    """The next rate to train at.

    Args:
        final_losses: The final loss of each rate so far, infinite where a training exploded.
        first: The first rate.
        lowest: No lower rate is tried.
        highest: No higher rate is tried.
        unchanged: Losses between these are no different from that before the training. While no rate is below them,
            lower and higher ones are tried in turn, a decade further each time, and only higher ones while the highest
            is the best; higher ones only while their losses are not above. ``None`` in a training that has begun: what
            it has learned is not lost at any rate that is too low.

    Returns:
        The rate, or ``None`` once both neighbours of the best rate were tried that may be tried.

    """
    if not final_losses:
        return first
    has_learned = unchanged is None or min(final_losses.values()) < unchanged[0]
    # Both neighbours of the first one: a small lead on one side says little. One that explodes is far too high.
    centres = [first] if math.isfinite(final_losses[first]) else []
    if has_learned:
        centres.append(_leading(final_losses, unchanged))
    for neighbour in (rate for centre in centres for rate in (centre / STEP, centre * STEP)):
        is_tried = any(math.isclose(lr, neighbour, rel_tol=1e-3) for lr in final_losses)
        if not is_tried and lowest <= neighbour <= highest:
            return neighbour
    return None if has_learned or unchanged is None else _further(final_losses, first, lowest, highest, unchanged[1])


def _leading(final_losses: Mapping[float, float], unchanged: tuple[float, float] | None) -> float:
    """The best rate, or the lowest one that is as good; in a training that has begun a tie is none."""
    lowest_loss = min(final_losses.values())
    tie = 0.0 if unchanged is None else TIE * (sum(unchanged) / 2 - lowest_loss)
    return min(lr for lr, loss in final_losses.items() if loss <= lowest_loss + tie)


def _further(
    final_losses: Mapping[float, float], first: float, lowest: float, highest: float, risen: float
) -> float | None:
    """A decade further away, on both sides in turn; only up where the highest is ahead on the same batches."""
    bottom, top = min(final_losses), max(final_losses)
    lower, higher = bottom / STEP**2, top * STEP**2
    may_rise = higher <= highest and final_losses[top] <= risen
    is_ahead = best_rate(final_losses) == top > first
    is_turn = sum(lr < first for lr in final_losses) > sum(lr > first for lr in final_losses)
    if may_rise and (is_turn or is_ahead or lower < lowest):
        return higher
    return lower if lower >= lowest else None
