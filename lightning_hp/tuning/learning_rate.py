"""The learning-rate range test: train over rising learning rates and write down the losses.

The object between the maths (`functional/learning_rate/suggestion.py`, which reads the curve) and the glue
(`callbacks/lr_finder.py`, which knows when to run it and what to do with the answer).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_hp.functional.learning_rate.range_test import has_exploded
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
