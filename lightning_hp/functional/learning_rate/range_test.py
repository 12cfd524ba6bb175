"""The learning rates of a range test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    pass


Mode = Literal["exponential", "linear"]


def lr_range(min_lr: float, max_lr: float, num_training_steps: int, mode: Mode = "exponential") -> NDArray[np.float64]:
    """The learning rates that a range test goes through: the first is ``min_lr``, the last ``max_lr``, exactly.

    Args:
        min_lr: Smallest learning rate, > 0.
        max_lr: Largest learning rate, > ``min_lr``, finite.
        num_training_steps: How many rates, one for each optimizer step, >= 2.
        mode: ``"exponential"``: each rate is the same factor above the one before. ``"linear"``: the same amount, which
            leaves the small rates of a wide range unvisited.

    Returns:
        The learning rates, shape (num_training_steps,).

    Raises:
        ValueError: If an argument is out of its range.

    Costs nothing. Does not help to find a range: start from one that surely holds the answer, such as 1e-7 to 10.

    Source: Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017 (linear).

    Example:
        >>> lr_range(1e-4, 1, 5).tolist()
        [0.0001, 0.001, 0.01, 0.1, 1.0]
        >>> lr_range(1, 3, 3, mode="linear").tolist()
        [1.0, 2.0, 3.0]

    """
    if not (0 < min_lr < max_lr and math.isfinite(max_lr)):
        raise ValueError(f"Expected 0 < `min_lr` < `max_lr`, both finite, but got {min_lr!r} and {max_lr!r}.")
    if num_training_steps < 2 or num_training_steps % 1:
        raise ValueError(f"Expected `num_training_steps` to be an int >= 2, but got {num_training_steps!r}.")
    if mode not in get_args(Mode):
        raise ValueError(f"Expected `mode` to be one of {', '.join(get_args(Mode))}, but got {mode!r}.")
    space = np.geomspace if mode == "exponential" else np.linspace
    return space(min_lr, max_lr, int(num_training_steps), dtype=np.float64)


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
