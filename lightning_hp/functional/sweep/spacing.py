"""How the values of a subject are spaced, and the range around one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

#: A list is geometric if its largest value is at least this many times its smallest, and the steps fit it better.
MIN_RATIO = 4.0


def is_geometric(values: Sequence[float]) -> bool:
    """Whether the values are spaced by ratios rather than by differences.

    Args:
        values: Two or more numbers, in any order.

    Returns:
        ``True`` if all are positive, the largest is at least 4 times the smallest, and their ratios vary less than
        their differences. Two such values count as geometric.

    Example:
        >>> is_geometric([64, 128, 256, 512]), is_geometric([0.1, 0.2, 0.3, 0.4]), is_geometric([0.0, 0.2])
        (True, False, False)

    """
    ordered = sorted(values)
    if ordered[0] <= 0 or ordered[-1] < MIN_RATIO * ordered[0]:
        return False
    logs = [math.log(value) for value in ordered]
    return _unevenness(logs) <= _unevenness(ordered)


def interpolate(values: Sequence[float], position: float) -> float:
    """The value at a position in a sorted list: between two neighbours by ratio if the list is geometric.

    Args:
        values: One or more numbers.
        position: From 0 (the first) to ``len(values) - 1`` (the last).

    Example:
        >>> interpolate([64, 128, 256], 1.5) == 128 * 2**0.5, interpolate([0.1, 0.3], 0.5)
        (True, 0.2)

    """
    low = min(int(position), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    part = position - low
    if len(values) > 1 and is_geometric(values):
        return float(values[low] * (values[high] / values[low]) ** part)
    return float(values[low] + (values[high] - values[low]) * part)


def position_of(values: Sequence[float], value: float) -> float:
    """The position of a value in a sorted list, the inverse of :func:`interpolate`.

    Args:
        values: Sorted numbers that differ.
        value: A number within their range.

    Example:
        >>> position_of([64, 128, 256], 256), round(position_of([0.1, 0.3], 0.2), 6)
        (2.0, 0.5)

    """
    low = max(index for index, entry in enumerate(values) if entry <= value)
    if low == len(values) - 1 or values[low] == value:
        return float(low)
    left, right = values[low], values[low + 1]
    if is_geometric(values):
        return low + math.log(value / left) / math.log(right / left)
    return low + (value - left) / (right - left)


def _unevenness(values: Sequence[float]) -> float:
    """The largest step over the smallest."""
    steps = [abs(right - left) for left, right in pairwise(values)]
    return max(steps) / min(steps) if min(steps) > 0 else math.inf
