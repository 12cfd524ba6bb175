"""Sweeps over rising learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_hp.tuning.learning_rate.steps import Stepper


def range_test(stepper: Stepper, lrs: Sequence[float], num_repeats: int) -> list[list[float]]:
    """Sweeps over ``lrs``, each from the same start and over other batches.

    Args:
        stepper: Runs the steps.
        lrs: Learning rates in ascending order, one for each step.
        num_repeats: Number of sweeps.

    Returns:
        The training losses, ``num_repeats`` rows of ``len(lrs)``; NaN after the end of a sweep.

    """
    sweeps = []
    for repeat in range(num_repeats):
        if repeat:
            stepper.rehearsal.rewind()
        losses = stepper.run((lr, None) for lr in lrs)
        sweeps.append(losses + [math.nan] * (len(lrs) - len(losses)))
    stepper.rehearsal.rewind()
    return sweeps
