"""The learning-rate range test: the learning rates that it runs, and when it may stop.

Pseudo-code:

    losses = []
    for lr in lr_range(min_lr, max_lr, num_training_steps):
        losses.append(loss of one training step at lr)
        if has_exploded(losses, threshold):
            break
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lightning_hp.functional.checks import check_choice, check_int, check_number, wrong_value

Mode = Literal["exponential", "linear"]

# The array of the learning rates has to fit into memory.
_MAX_STEPS = 10_000_000


def lr_range(min_lr: float, max_lr: float, num_training_steps: int, mode: Mode = "exponential") -> NDArray[np.float64]:
    """The learning rates of a range test; the first is exactly ``min_lr``, the last exactly ``max_lr``.

    Args:
        min_lr: Smallest learning rate, finite and > 0.
        max_lr: Largest learning rate, finite and > ``min_lr``.
        num_training_steps: Number of learning rates, one for each optimizer step, from 2 to 10 million.
        mode: ``"exponential"``: the ratio of neighbours is constant. ``"linear"``: their difference is constant, so
            that a wide range has few small rates.

    Returns:
        The learning rates, rising, shape (num_training_steps,).

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.

    Note:
        The range has to contain the answer. 1e-7 to 10 does for most trainings.

    References:
        L. N. Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017 (linear).

    Example:
        >>> lr_range(1e-4, 1, 5).tolist()
        [0.0001, 0.001, 0.01, 0.1, 1.0]
        >>> lr_range(1, 3, 3, mode="linear").tolist()
        [1.0, 2.0, 3.0]

    """
    low = check_number("min_lr", min_lr, above=0)
    high = check_number("max_lr", max_lr, above=low)
    steps = check_int("num_training_steps", num_training_steps, 2, _MAX_STEPS)
    space = np.geomspace if check_choice("mode", mode, get_args(Mode)) == "exponential" else np.linspace
    lrs = space(low, high, steps, dtype=np.float64)
    if np.diff(lrs).min() <= 0:
        wrong_value("max_lr", f"so far above `min_lr` that {steps} learning rates differ", max_lr)
    return lrs


def has_exploded(losses: Sequence[float], threshold: float | None) -> bool:
    """Whether a sweep may stop: a loss is not finite, or the present loss is far above the initial one.

    The initial loss is the median of the first eight losses, the present loss the median of the last three, so a single
    outlier does not end the sweep.

    Args:
        losses: The losses so far, one for each step.
        threshold: The present loss may be this multiple of the initial loss, > 1. If the initial loss is negative, the
            allowed rise is the same share of its absolute value. ``None``: only a loss that is not finite stops.

    Returns:
        Whether the sweep may stop. ``False`` while there are fewer than three finite losses.

    Example:
        >>> has_exploded([2.0] * 8 + [9.0], threshold=4.0)
        False
        >>> has_exploded([2.0] * 8 + [9.0, 9.0, 9.0], threshold=4.0)
        True

    """
    # Without NumPy, which takes ten times as long for a few numbers, in the middle of a training.
    if any(not math.isfinite(loss) for loss in losses):
        return True
    if threshold is None or len(losses) < 3:
        return False
    initial, present = median(losses[:8]), median(losses[-3:])
    return present > initial + (threshold - 1) * abs(initial)
