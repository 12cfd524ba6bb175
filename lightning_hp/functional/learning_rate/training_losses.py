"""What the losses of short trainings say: how low each ends, whether anything was learned, whether it is lost again.

All short trainings get the same batches, so how difficult a batch is cancels out of their comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile

import numpy as np

#: The loss of a training is the mean over this share of its steps, the last ones.
TAIL = 0.2

#: Fewer losses say too little about their noise.
FEW_STEPS = 10

#: A training whose loss rises by this share of its fall goes on at a lower rate.
LOST = 0.25

#: A fall below this many standard errors may be chance.
MIN_SIGNAL = 3.0


def final_loss(losses: Sequence[float], num_steps: int) -> float:
    """The mean loss over the last fifth of the first ``num_steps`` steps; infinite if the training ended before."""
    tail = float(np.mean(_tail(losses, num_steps))) if len(losses) >= num_steps else math.inf
    return tail if math.isfinite(tail) else math.inf


def final_losses(losses: Mapping[float, Sequence[float]], num_steps: int) -> dict[float, float]:
    """The final loss of each rate.

    Args:
        losses: The losses of each rate, over the same batches.
        num_steps: Steps of a whole training.

    Returns:
        The final losses in ascending order of the rates. A training with fewer steps is compared with the best whole
        one over the same steps. Infinite where a training ended with a loss that is not finite, or nothing was whole.

    """
    final = {lr: final_loss(its, num_steps) for lr, its in sorted(losses.items())}
    best = best_rate(final)
    if math.isfinite(final[best]):
        for lr, its in losses.items():
            if 0 < len(its) < num_steps:
                lost = final_loss(its, len(its)) - final_loss(losses[best], len(its))
                final[lr] = final[best] + lost
    return final


def best_rate(final_losses: Mapping[float, float]) -> float:
    """The rate with the smallest final loss; of equal ones the lowest."""
    return min(sorted(final_losses), key=lambda lr: final_losses[lr])


def tied_rates(losses: Mapping[float, Sequence[float]], final_losses: Mapping[float, float]) -> list[float]:
    """The best rate and those next to it, step by step, that are not worse by more than the noise.

    Args:
        losses: The losses of each rate, over the same batches.
        final_losses: The final loss of each rate.

    Returns:
        Neighbouring rates in ascending order, whose losses differ from those of the best one by less than three
        standard errors of their difference, over the last fifth of the steps that both have, ten steps at least.

    """
    rates, best = sorted(losses), best_rate(final_losses)

    def is_tied(lr: float) -> bool:
        steps = min(len(losses[lr]), len(losses[best]))
        if steps < 2 or not math.isfinite(final_losses[lr]):
            return False
        gaps = np.subtract(_tail(losses[lr], steps, FEW_STEPS), _tail(losses[best], steps, FEW_STEPS))
        return lr == best or bool(gaps.mean() < MIN_SIGNAL * math.sqrt(squared_error(gaps)))

    place = rates.index(best)
    lower = list(takewhile(is_tied, reversed(rates[: place + 1])))
    return [*reversed(lower), *takewhile(is_tied, rates[place + 1 :])]


def unchanged_losses(untrained: Sequence[float], num_steps: int, share: float = TAIL) -> tuple[float, float]:
    """Between which losses the final loss of a training may lie that has changed nothing.

    Args:
        untrained: Losses before anything is learned, over any batches.
        num_steps: Steps of a training.
        share: The loss is the mean over this share of them.

    Returns:
        Their mean, three standard errors down and up.

    """
    values = np.asarray(untrained, dtype=float)
    tail = max(1, round(share * num_steps))
    reach = MIN_SIGNAL * math.sqrt(squared_error(values) * (1 + len(values) / tail))
    return float(values.mean()) - reach, float(values.mean()) + reach


def rises_again(losses: Sequence[float]) -> bool:
    """Whether a training loses a quarter of what it had gained, or explodes: its rate is too high to go on with.

    Args:
        losses: All its losses, shape (steps,).

    Returns:
        Whether the mean of the last fifth is above the lowest mean of a fifth by a quarter of the fall to that one, and
        by more than the noise.

    """
    values = np.asarray(losses, dtype=float)
    if not np.isfinite(values).all():
        return True
    size = max(2, round(TAIL * len(values)))
    first, last = values[:size], values[-size:]
    starts = range(len(values) - size + 1)
    lowest = min((values[start : start + size] for start in starts), key=lambda window: float(window.mean()))
    rise = float(last.mean() - lowest.mean())
    error = math.sqrt(squared_error(last) + squared_error(lowest))
    return rise > LOST * float(first.mean() - lowest.mean()) and rise > MIN_SIGNAL * error


def squared_error(values: np.ndarray) -> float:
    """The squared standard error of a mean."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else math.inf


def _tail(losses: Sequence[float], num_steps: int, at_least: int = 1) -> Sequence[float]:
    return losses[max(0, num_steps - max(at_least, round(TAIL * num_steps))) : num_steps]
