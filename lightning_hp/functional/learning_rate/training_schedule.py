"""The rates of the steps of a short training: those of the first steps of the planned one.

The whole schedule within a hundred steps makes rates look good at which the loss comes back later. But where the
schedule decays, each short training ends with the same decay to zero, without which the noise of a high rate hides what
it has learned. So it does in a training that has begun, where any lower rate lowers the loss at once, since the weights
come to rest.
"""

from __future__ import annotations

import math

#: Where more than this share of the steps would be warm-up, the warm-up is compressed.
WARM_UP = 0.5

#: Where the schedule decays, or the training has begun, the rate falls to zero over this share of the steps of a short
#: training, the last ones.
COOL_DOWN = 0.4


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


def cool_down(step: int, num_steps: int) -> float:
    """The factor of the rate at a step, from 0, of a short training that ends with a decay."""
    return min(1.0, (num_steps - step - 0.5) / (COOL_DOWN * num_steps))
