"""Chooses a learning rate by short trainings at a few rates, from the same weights over the same batches.

A range test takes one step at each rate, and cannot see what a rate does over many steps. Short trainings do. Which
rates they try is in `tried_rates`, the rates of their steps in `training_schedule`, what their losses say in
`training_losses`. From these:

    loss of a rate = mean over the last fifth of its steps, at most the loss before training; of a training with fewer
                     steps that of the best one and what it lost against it in the last fifth of these
    log(lr)        = lowest point of the parabola through the best rate and its two neighbours;
                     the best one if there was no room for one of them; halfway from there to the middle of three or
                     more neighbouring rates that differ by no more than their noise
    for each doubling of the steps until the length of the training:
        log(lr) -= 0.025 if the schedule decays or steps get shorter by themselves, else 0.15
    for each doubling of the passes over the data, from ten on:
        log(lr) -= 0.1
    log(lr) -= log(how many times longer steps get later at the same rate, by a warm-up of the optimizer's own)

The best rate falls as the training gets longer, unless shorter steps make up for it. What is seen many times is
overfitted, which no training loss shows. In a training that has begun log(lr) is not lowered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_hp.functional.checks import check_array, check_bool, check_int, check_number, wrong_type, wrong_value
from lightning_hp.functional.learning_rate.training_losses import (
    MIN_SIGNAL,
    best_rate,
    final_losses,
    squared_error,
    tied_rates,
    unchanged_losses,
)
from lightning_hp.functional.learning_rate.tried_rates import STEP

#: The best rate of the planned training is likely around those that reach this share of the best fall.
NEAR = 0.9

NO_MEASURE = "it may be no measure of what is learned (policy gradient, contrastive loss with a queue)"

#: Of this many neighbouring rates that differ by no more than their noise the best one is half chance.
FEW_TIED = 3

#: How far the best rate falls with each doubling of a training, in decades, where the schedule decays or steps
#: get shorter by themselves, and elsewhere; for four doublings at most.
DRIFT_OF_DECAY, DRIFT, MOST_DOUBLINGS = 0.025, 0.15, 4

#: How far the best rate falls with each doubling of the passes over the data, in decades, from this many on.
DRIFT_OF_PASSES, FEW_PASSES = 0.1, 10


@dataclass(frozen=True)
class TrainedChoice:
    """What short trainings say.

    Attributes:
        lr: The chosen rate; ``None`` if no training lowered the loss.
        interval: The lowest and the highest rate between which the best one is likely to lie, or ``None``.
        fall: How far the best training lowered the loss.
        tied: The lowest and the highest of the rates that differ by no more than their noise; ``None`` if these are
            fewer than three.
        reason: Why there is no choice, in one sentence, or ``None``.

    """

    lr: float | None = None
    interval: tuple[float, float] | None = None
    fall: float = 0.0
    tied: tuple[float, float] | None = None
    reason: str | None = None


def choose_rate(
    losses: Mapping[float, Sequence[float]],
    num_steps: int,
    untrained: Sequence[float],
    *,
    doublings: float = 0.0,
    decays: bool = False,
    passes: float = 1.0,
    lengthening: float = 1.0,
) -> TrainedChoice:
    """Chooses a rate from short trainings.

    Args:
        losses: The losses of each rate, over the same batches; fewer than ``num_steps`` where a training exploded, or
            had no more steps.
        num_steps: Steps of each whole training, >= 2.
        untrained: Losses before anything is learned, over any batches.
        doublings: How often the number of steps doubles until the end of the planned training, >= 0.
        decays: Whether the steps will get shorter in the planned training, by the schedule or by themselves.
        passes: Passes of the planned training over its data, > 0; 1 if unknown.
        lengthening: How many times longer the longest steps of the planned training are than those of a short one, at
            the same rate, >= 1.

    Returns:
        The choice.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.

    Example:
        >>> falls = {0.01: 1.0, 0.1: 2.0, 1.0: 1.0}
        >>> trainings = {lr: [2.3 - fall * step / 50 for step in range(50)] for lr, fall in falls.items()}
        >>> f"{choose_rate(trainings, 50, [2.3, 2.31, 2.29]).lr:.3f}"
        '0.100'

    """
    losses = _check_losses(losses)
    num_steps = check_int("num_steps", num_steps, 2)
    untrained = check_array("untrained", untrained, "two or more finite losses").tolist()
    if np.ndim(untrained) != 1 or len(untrained) < 2 or not math.isfinite(sum(untrained)):
        wrong_value("untrained", "two or more finite losses", untrained)
    doublings = check_number("doublings", doublings, minimum=0, finite=False)
    decays = check_bool("decays", decays)
    passes = check_number("passes", passes, above=0, finite=False)
    lengthening = check_number("lengthening", lengthening, minimum=1)
    final = final_losses(losses, num_steps)
    best = best_rate(final)
    start = float(np.mean(untrained))
    if _is_no_measure(untrained):
        return TrainedChoice(reason=f"The loss before training changes its sign, around {start:.3g}: {NO_MEASURE}.")
    fall = start - final[best]
    if not (fall > 0 and _is_significant(losses, final, best, num_steps, untrained)):
        return TrainedChoice(reason=_reason(final, best, start, unchanged_losses(untrained, num_steps)))
    rates = tied_rates(losses, final)
    tied = (rates[0], rates[-1]) if len(rates) >= FEW_TIED else None
    log_lr = _lowest_point(final, start)
    if tied is not None:
        log_lr = (log_lr + float(np.log10(rates).mean())) / 2
    log_lr -= (DRIFT_OF_DECAY if decays else DRIFT) * min(doublings, MOST_DOUBLINGS)
    log_lr -= DRIFT_OF_PASSES * min(max(0.0, math.log2(passes / FEW_PASSES)), MOST_DOUBLINGS)
    log_lr -= math.log10(lengthening)
    lr = 10**log_lr
    near = [rate for rate, loss in final.items() if loss <= final[best] + (1 - NEAR) * fall]
    # A whole step below and half a step above: the best rate of a long training is rather lower.
    interval = min(lr, *near) / STEP, max(lr, max(near) * math.sqrt(STEP))
    return TrainedChoice(lr, interval, fall, tied)


def _check_losses(losses: Any) -> dict[float, list[float]]:
    what = "a dict of learning rates and the losses of their trainings"
    if not isinstance(losses, Mapping):
        wrong_type("losses", what, losses)
    if not losses:
        wrong_value("losses", what, losses)
    checked = {}
    for lr, its in losses.items():
        values = check_array("losses", its, what)
        if values.ndim != 1:
            wrong_value("losses", what, losses)
        checked[check_number("losses", lr, above=0)] = values.tolist()
    return checked


def _lowest_point(final_losses: Mapping[float, float], start: float) -> float:
    """log10 of the rate at the lowest point of a parabola through the best rate and its neighbours.

    Without one of them it is the best rate.
    """
    rates, losses = list(final_losses), [min(loss, start) for loss in final_losses.values()]
    best = int(np.argmin(losses))
    if best in (0, len(rates) - 1):
        return math.log10(rates[best])
    log_rates = np.log10(rates[best - 1 : best + 2])
    curvature, slope, _ = np.polyfit(log_rates - log_rates[1], losses[best - 1 : best + 2], 2)
    return float(log_rates[1] - slope / (2 * curvature) if curvature > 0 else log_rates[1])


def _is_significant(
    losses: Mapping[float, Sequence[float]],
    final: Mapping[float, float],
    best: float,
    num_steps: int,
    untrained: Sequence[float],
) -> bool:
    """Whether the best training is below the untrained losses, or below another training step by step."""
    if final[best] < unchanged_losses(untrained, num_steps)[0]:
        return True
    steps = min(num_steps, len(losses[best]))
    half = slice(steps // 2, steps)  # more steps than for the choice: small batches need them
    gaps = [
        np.subtract(its[half], losses[best][half]) for lr, its in losses.items() if lr != best and len(its) >= steps
    ]
    return any(gap.mean() > MIN_SIGNAL * math.sqrt(squared_error(gap)) for gap in gaps)


def _is_no_measure(untrained: Sequence[float]) -> bool:
    """Whether the losses before training have both signs and a mean that may be zero, as those of a policy gradient."""
    mean, error = float(np.mean(untrained)), math.sqrt(squared_error(np.asarray(untrained)))
    return min(untrained) < 0 < max(untrained) and abs(mean) < MIN_SIGNAL * error


def _reason(final: Mapping[float, float], best: float, start: float, unchanged: tuple[float, float]) -> str:
    if not math.isfinite(final[best]):
        lowest, highest = min(final), max(final)
        if lowest == highest:
            what = f"The short training at the lowest rate, {lowest:.3g}, exploded"
        else:
            what = f"Every short training exploded, at rates from {lowest:.3g} to {highest:.3g}, also at the lowest"
        return f"{what}: look for NaN in the data or the model; if there is none, try lower rates."
    if min(final.values()) > unchanged[1]:
        return (
            f"The loss rises at every rate from {min(final):.3g} to {max(final):.3g}, from {start:.4g}: {NO_MEASURE}."
        )
    return (
        f"No short training lowered the loss by more than its noise: {start:.4g} before,"
        f" {final[best]:.4g} at best, with rates from {min(final):.3g} to {max(final):.3g}."
    )
