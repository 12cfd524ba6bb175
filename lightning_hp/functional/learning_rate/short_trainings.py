"""Chooses a learning rate by short trainings at a few rates, from the same weights over the same batches.

A range test takes one step at each rate, and cannot see what a rate does over many steps. Short trainings do. All of
them get the same batches, so how difficult a batch is cancels out of their comparison.

Pseudo-code:

    train at a first rate: what the range test suggests, or the present rate of a training that has begun
    train half a decade lower and half a decade higher
    while no training lowers the loss: train a decade lower and a decade higher, in turn; higher while that is better
    while the best rate has a neighbour half a decade away that was not tried: train at it

    loss of a rate = mean over the last fifth of its steps, at most the loss before training; of a training with fewer
                     steps that of the best one and what it lost against it in the last fifth of these
    log(lr)        = lowest point of the parabola through the best rate and its two neighbours;
                     the best one if there was no room for one of them
    for each doubling of the steps until the length of the training:
        log(lr) -= 0.025 if the schedule decays or the optimizer shortens its steps, else 0.15
    for each doubling of the passes over the data, from ten on:
        log(lr) -= 0.1

The best rate falls as the training gets longer, unless a decay makes up for it. What is seen many times is overfitted,
which no training loss shows.

The trainings have the warm-up of the schedule, then its first rates: its whole decay within a hundred steps makes rates
look good at which the loss comes back later. But where the schedule decays, each training ends with the same decay to
zero, without which the noise of a high rate hides what it has learned. So it does in a training that has begun, where
any lower rate lowers the loss at once, since the weights come to rest; there log(lr) is not lowered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_hp.functional.checks import check_array, check_bool, check_int, check_number, wrong_type, wrong_value

#: Ratio of neighbouring rates: half a decade.
STEP = math.sqrt(10)

#: The best rates lie around this share of the rate at which the range test explodes. Where it shows no deep valley, its
#: losses rise only far above the rates that learn.
OF_EDGE, OF_EDGE_WITHOUT_VALLEY = 0.1, 0.05

#: The best rates lie around this share of the rate at which the range test has its lowest loss.
OF_LOWEST = 1 / STEP

#: The present rate is the first one unless it is further from these than this factor.
PLAUSIBLE = 30.0

#: The loss of a training is the mean over this share of its steps, the last ones.
TAIL = 0.2

#: Where two rates differ by less than this share of the best fall, the search goes on around the lower one.
TIE = 0.05

#: The best rate of the planned training is likely around those that reach this share of the best fall.
NEAR = 0.9

NO_MEASURE = "it may be no measure of what is learned (policy gradient, contrastive loss with a queue)"

#: How far the best rate falls with each doubling of a training, in decades, where the schedule decays or the optimizer
#: shortens its steps by itself, and elsewhere; for four doublings at most.
DRIFT_OF_DECAY, DRIFT, MOST_DOUBLINGS = 0.025, 0.15, 4

#: How far the best rate falls with each doubling of the passes over the data, in decades, from this many on.
DRIFT_OF_PASSES, FEW_PASSES = 0.1, 10

#: Where more than this share of the steps would be warm-up, the warm-up is compressed.
WARM_UP = 0.5

#: Where the schedule decays, or the training has begun, the rate falls to zero over this share of the steps of a short
#: training, the last ones.
COOL_DOWN = 0.4

#: A training whose loss rises by this share of its fall goes on at a lower rate.
LOST = 0.25

#: A fall below this many standard errors may be chance.
MIN_SIGNAL = 3.0


@dataclass(frozen=True)
class TrainedChoice:
    """What short trainings say.

    Attributes:
        lr: The chosen rate; ``None`` if no training lowered the loss.
        interval: The lowest and the highest rate between which the best one is likely to lie, or ``None``.
        fall: How far the best training lowered the loss.
        reason: Why there is no choice, in one sentence, or ``None``.

    """

    lr: float | None = None
    interval: tuple[float, float] | None = None
    fall: float = 0.0
    reason: str | None = None


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


def cool_down(step: int, num_steps: int) -> float:
    """The factor of the rate at a step, from 0, of a short training that ends with a decay."""
    return min(1.0, (num_steps - step - 0.5) / (COOL_DOWN * num_steps))


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
    best = _best_rate(final)
    if math.isfinite(final[best]):
        for lr, its in losses.items():
            if 0 < len(its) < num_steps:
                lost = final_loss(its, len(its)) - final_loss(losses[best], len(its))
                final[lr] = final[best] + lost
    return final


def progress_of(step: int, num_steps: int, planned_steps: int | None, warm_up: float) -> float:
    """The part of the planned training whose rate a step of a short training gets.

    Args:
        step: The step, from 0.
        num_steps: Steps of the short training.
        planned_steps: Steps of the planned training, or ``None`` if it has no limit: it then stays at its peak.
        warm_up: The part of the planned training before the peak of its schedule, from 0 to 1.

    Returns:
        The part, as in the planned training; but a warm-up that takes longer than half of the short training is
        compressed into half of it.

    """
    planned = math.inf if planned_steps is None else planned_steps
    longest = WARM_UP * num_steps
    if warm_up == 0 or warm_up * planned <= longest:
        return (step + 0.5) / planned
    if step + 0.5 < longest:
        return warm_up * (step + 0.5) / longest
    return warm_up + (step + 0.5 - longest) / planned


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
    reach = MIN_SIGNAL * math.sqrt(_squared_error(values) * (1 + len(values) / tail))
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
    error = math.sqrt(_squared_error(last) + _squared_error(lowest))
    return rise > LOST * float(first.mean() - lowest.mean()) and rise > MIN_SIGNAL * error


def next_rate(
    final_losses: Mapping[float, float],
    first: float,
    lowest: float,
    highest: float,
    unchanged: tuple[float, float] | None,
) -> float | None:
    """The next rate to train at: from ``first`` to a rate that learns, then to the neighbours of the best one.

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
    best, bottom, top = _best_rate(final_losses), min(final_losses), max(final_losses)
    unlearned, risen = unchanged or (math.inf, math.inf)
    has_learned = final_losses[best] < unlearned or unchanged is None
    # Both neighbours of the first one: a small lead on one side says little. One that explodes is far too high.
    wanted = [first / STEP, first * STEP] if math.isfinite(final_losses[first]) else []
    if has_learned:
        if unchanged is not None:
            tie = final_losses[best] + TIE * ((unlearned + risen) / 2 - final_losses[best])
            best = min(lr for lr, loss in final_losses.items() if loss <= tie)
        wanted += [best / STEP, best * STEP]
    for neighbour in wanted:
        is_tried = any(math.isclose(lr, neighbour, rel_tol=1e-3) for lr in final_losses)
        if not is_tried and lowest <= neighbour <= highest:
            return neighbour
    if has_learned:
        return None
    # Further away, on both sides in turn; only up where the highest is ahead on the same batches.
    lower, higher = bottom / STEP**2, top * STEP**2
    may_rise = higher <= highest and final_losses[top] <= risen
    is_turn = sum(lr < first for lr in final_losses) > sum(lr > first for lr in final_losses)
    if may_rise and (is_turn or (best == top and top > first) or lower < lowest):
        return higher
    return lower if lower >= lowest else None


def choose_rate(
    losses: Mapping[float, Sequence[float]],
    num_steps: int,
    untrained: Sequence[float],
    *,
    doublings: float = 0.0,
    decays: bool = False,
    passes: float = 1.0,
) -> TrainedChoice:
    """Chooses a rate from short trainings.

    Args:
        losses: The losses of each rate, over the same batches; fewer than ``num_steps`` where a training exploded, or
            had no more steps.
        num_steps: Steps of each whole training, >= 2.
        untrained: Losses before anything is learned, over any batches.
        doublings: How often the number of steps doubles until the end of the planned training, >= 0.
        decays: Whether the steps will get shorter in the planned training, by the schedule or by the optimizer.
        passes: Passes of the planned training over its data, > 0; 1 if unknown.

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
    final = final_losses(losses, num_steps)
    best = _best_rate(final)
    start = float(np.mean(untrained))
    if _is_no_measure(untrained):
        return TrainedChoice(reason=f"The loss before training changes its sign, around {start:.3g}: {NO_MEASURE}.")
    fall = start - final[best]
    if not (fall > 0 and _is_significant(losses, final, best, num_steps, untrained)):
        return TrainedChoice(reason=_reason(final, best, start, unchanged_losses(untrained, num_steps)))
    log_lr = _lowest_point(final, start)
    log_lr -= (DRIFT_OF_DECAY if decays else DRIFT) * min(doublings, MOST_DOUBLINGS)
    log_lr -= DRIFT_OF_PASSES * min(max(0.0, math.log2(passes / FEW_PASSES)), MOST_DOUBLINGS)
    lr = 10**log_lr
    near = [rate for rate, loss in final.items() if loss <= final[best] + (1 - NEAR) * fall]
    # A whole step below and half a step above: the best rate of a long training is rather lower.
    interval = min(lr, *near) / STEP, max(lr, max(near) * math.sqrt(STEP))
    return TrainedChoice(lr, interval, fall)


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


def _tail(losses: Sequence[float], num_steps: int) -> Sequence[float]:
    return losses[num_steps - max(1, round(TAIL * num_steps)) : num_steps]


def _best_rate(final_losses: Mapping[float, float]) -> float:
    """The rate with the smallest final loss; of equal ones the lowest."""
    return min(sorted(final_losses), key=lambda lr: final_losses[lr])


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
    return any(gap.mean() > MIN_SIGNAL * math.sqrt(_squared_error(gap)) for gap in gaps)


def _is_no_measure(untrained: Sequence[float]) -> bool:
    """Whether the losses before training have both signs and a mean that may be zero, as those of a policy gradient."""
    mean, error = float(np.mean(untrained)), math.sqrt(_squared_error(np.asarray(untrained)))
    return min(untrained) < 0 < max(untrained) and abs(mean) < MIN_SIGNAL * error


def _squared_error(values: np.ndarray) -> float:
    """The squared standard error of a mean."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else math.inf


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
