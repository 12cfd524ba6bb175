"""Chooses a learning rate by short trainings at a few rates, from the same weights over the same batches.

A range test takes one step at each rate, and cannot see what a rate does over many steps. Short trainings do, and since
all of them get the same batches, their losses can be compared directly: how difficult a batch is cancels out.

Pseudo-code:

    train at `first`, `first` x 3.2 and `first` / 3.2
    while the best rate is the highest or the lowest one: train at the next rate on that side
    loss of a rate = mean over the last fifth of its steps; infinite if the training exploded
    best           = the rate with the smallest loss
    lowest         = the lowest rate below it that reaches 95 % of the fall of the best
    lr             = sqrt(best * lowest)

The last two lines lower the rate where the losses differ little, since a longer training needs a lower rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Ratio of neighbouring rates: half a decade.
STEP = math.sqrt(10)

#: Fewer steps rank learning rates wrongly: high rates look good at first.
MIN_STEPS = 60

#: The loss of a training is the mean over this share of its steps, the last ones.
TAIL = 0.2

#: Rates that reach this share of the best fall count as good as the best.
AS_GOOD = 0.95

#: Rates that reach this share of the best fall are fair choices.
FAIR = 0.9


@dataclass(frozen=True)
class TrainedChoice:
    """What short trainings say.

    Attributes:
        lr: The chosen rate; ``None`` if no training lowered the loss.
        interval: The lowest and the highest fair choice, or ``None``.
        reason: Why there is no choice, in one sentence, or ``None``.

    """

    lr: float | None = None
    interval: tuple[float, float] | None = None
    reason: str | None = None


def final_loss(losses: Sequence[float], num_steps: int) -> float:
    """The mean loss over the last fifth of ``num_steps`` steps; infinite if the training ended before."""
    if len(losses) < num_steps:
        return math.inf
    tail = float(np.mean(losses[num_steps - max(1, round(TAIL * num_steps)) : num_steps]))
    return tail if math.isfinite(tail) else math.inf


def next_rate(final_losses: Mapping[float, float], first: float, lowest: float, highest: float) -> float | None:
    """The next rate to train at: from ``first`` on the side of the best rate, until it lies between two others.

    Args:
        final_losses: The final loss of each rate so far, infinite where a training exploded.
        first: The first rate.
        lowest: No lower rate is tried.
        highest: No higher rate is tried.

    Returns:
        The rate, or ``None`` once the best rate lies between two others, or at an end of what may be tried.

    """
    if not final_losses:
        return first
    best = best_rate(final_losses)
    if best == min(final_losses) and best / STEP >= lowest:
        return best / STEP
    if best == max(final_losses) and best * STEP <= highest and math.isfinite(final_losses[best]):
        return best * STEP
    return None


def best_rate(final_losses: Mapping[float, float]) -> float:
    """The rate with the smallest final loss; of equal ones the lowest."""
    return min(sorted(final_losses), key=lambda lr: final_losses[lr])


def choose_rate(final_losses: Mapping[float, float], start: float) -> TrainedChoice:
    """Chooses a rate from the final losses of short trainings.

    Args:
        final_losses: The final loss of each rate, infinite where a training exploded.
        start: The loss before anything is learned.

    Returns:
        The choice.

    """
    best = best_rate(final_losses)
    fall = start - final_losses[best]
    if not fall > 0:
        return TrainedChoice(reason=f"No short training lowered the loss from {start:.4g}.")
    lowest = _lowest_as_good(final_losses, best, final_losses[best] + (1 - AS_GOOD) * fall)
    level = final_losses[best] + (1 - FAIR) * fall
    fair = [lr for lr, loss in final_losses.items() if loss <= level]
    return TrainedChoice(math.sqrt(best * lowest), (min(fair) / math.sqrt(STEP), max(fair) * math.sqrt(STEP)))


def _lowest_as_good(final_losses: Mapping[float, float], best: float, level: float) -> float:
    """The lowest rate from the best one down without a gap whose loss is at most ``level``."""
    lowest = best
    for lr in sorted((lr for lr in final_losses if lr < best), reverse=True):
        if final_losses[lr] > level:
            break
        lowest = lr
    return lowest
