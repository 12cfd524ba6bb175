"""The learning-rate range test: train over rising learning rates and write down the losses.

The object between the maths (`functional/lr_suggestion.py`, which reads the curve) and the glue
(`callbacks/lr_finder.py`, which knows when to run it and what to do with the answer).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_hp.hyperparameters import LearningRate
from lightning_hp.rehearsal import Rehearsal

if TYPE_CHECKING:
    pass

# Losses are read from the device once in so many steps: a sweep that explodes runs on for a few steps more, and one
# that does not is never held up by a synchronisation.
_READ_EVERY = 8


def range_test(
    rehearsal: Rehearsal,
    learning_rate: LearningRate,
    lrs: Sequence[float],
    early_stop_threshold: float | None,
    num_repeats: int,
    on_step: Callable[[], None],
) -> list[list[float]]:
    """Sweeps over ``lrs``, each time from the same start and over other batches.

    Args:
        rehearsal: An open rehearsal: it gives the steps and takes them back.
        learning_rate: Writes the learning rate of each step, at the ratios of the user's parameter groups.
        lrs: Rising learning rates, one a step.
        early_stop_threshold: Ends a sweep once its loss stays above this multiple of the initial loss; a loss that is
            not finite always ends it. ``None``: never for its height.
        num_repeats: Number of sweeps.
        on_step: Called after each step, for a progress bar.

    Returns:
        The training losses, ``num_repeats`` rows of ``len(lrs)``; NaN where a sweep had ended. On several processes
        the mean over them.

    """
    sweeps = []
    for repeat in range(num_repeats):
        if repeat:
            rehearsal.rewind()
        losses = _sweep(rehearsal, learning_rate, lrs, early_stop_threshold, on_step)
        sweeps.append(losses + [math.nan] * (len(lrs) - len(losses)))
    rehearsal.rewind()
    return sweeps


def has_exploded(losses: Sequence[float], threshold: float | None) -> bool:
    """Whether a sweep need not go on: its loss is not finite, or has left the initial loss far below.

    The initial loss is the median of the first eight, the present one the median of the last three: one bad batch
    ends nothing. For a loss that starts below zero the allowed rise is the same share of its size.

    Example:
        >>> has_exploded([2.0] * 8 + [9.0], threshold=4.0)
        False
        >>> has_exploded([2.0] * 8 + [9.0, 9.0, 9.0], threshold=4.0)
        True

    """
    if any(not math.isfinite(loss) for loss in losses):
        return True
    if threshold is None or len(losses) < 3:
        return False
    initial = median(losses[:8])
    return median(losses[-3:]) > initial + (threshold - 1) * abs(initial)


def _sweep(
    rehearsal: Rehearsal,
    learning_rate: LearningRate,
    lrs: Sequence[float],
    threshold: float | None,
    on_step: Callable[[], None],
) -> list[float]:
    losses: list[float] = []
    unread: list[Tensor] = []
    for position, lr in enumerate(lrs):
        learning_rate.set_for_step(lr)
        unread.append(rehearsal.step())
        learning_rate.check_still(lr)
        on_step()
        if len(unread) == _READ_EVERY or position == len(lrs) - 1:
            losses += rehearsal.read(unread)
            unread = []
            if has_exploded(losses, threshold):
                break
    return losses
