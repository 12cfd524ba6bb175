"""Peak memory of a batch size, predicted from sizes that were run.

Peak memory is a maximum of lines over the batch size: it is flat while the optimizer sets it and rises with the
activations after that. Only the two sizes next to the wanted one say how steep it is there.

Pseudo-code:

    no point:    no prediction
    one point:   peak(n) = peak * max(n / size, 1), in proportion
    else:        the line through the two points next to n (or next to the budget)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from lightning_hp.functional.checks import MAX_INT, check_int, check_iterable, check_number, wrong_value

#: Bytes of a mebibyte, the unit in which memory is shown.
MIB = 2**20

Point = tuple[int, float]


class _Line(NamedTuple):
    """Peak memory as a line through a point."""

    size: int
    peak: float
    slope: float


def predict_batch_size(points: Iterable[Point], budget: float) -> int | None:
    """The largest batch size whose peak memory is expected to stay within ``budget``.

    Args:
        points: Batch sizes that were run, >= 1, each with its peak memory, finite and >= 0, in any order and unit. If a
            size occurs twice, the later point counts. Leave out sizes that ran out of memory: their peak is not known.
        budget: The memory that may be used, in the same unit, finite and > 0.

    Returns:
        The batch size, >= 0. ``None`` if there is no point, or if memory does not grow with the batch: the only peak is
        0, or the line does not rise.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a size, a peak or the budget is out of its range.

    Note:
        From a single size that was run, memory is taken to be proportional to the batch: ``size * budget / peak``. From
        two or more it is the line through the two points next to the budget.

        With one point, a result above the size that was run is not too large, since memory that does not depend on the
        batch is counted as if it did. A result below that size may be too large for the same reason. With more points,
        it is too large far above the sizes that were run: up to ten times for a vision transformer that was run at 1
        and 2 samples. So go up to a few times the last size and measure again. Between a size within the budget and one
        above it, the result is not too large, since peak memory is convex.

    Example:
        >>> resnet50 = [(4, 580), (8, 899), (16, 1537), (32, 2849)]  # MiB
        >>> predict_batch_size(resnet50, 5495)  # which 64 takes
        64
        >>> predict_batch_size([(32, 2849)], 5495)
        61

    """
    known = check_points(points)
    limit = check_number("budget", budget, above=0)
    if not known:
        return None
    if len(known) == 1:
        ((run, peak),) = known
        size = run * limit / peak if peak > 0 else None
    else:
        line = _line(known, next((i for i, (_, peak) in enumerate(known) if peak > limit), len(known)))
        size = line.size + (limit - line.peak) / line.slope if line.slope > 0 else None
    return None if size is None else math.floor(min(max(size, 0), MAX_INT))


def predict_peak(points: Iterable[Point], batch_size: int) -> float | None:
    """The peak memory that is expected at ``batch_size``.

    Args:
        points: As for :func:`predict_batch_size`.
        batch_size: The size to predict for, >= 1.

    Returns:
        The peak, in the unit of the points; ``None`` if there is no point.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a size or a peak is out of its range.

    Note:
        From a single size that was run, the peak grows in proportion to the batch and does not fall below the one that
        was measured: ``peak * max(batch_size / size, 1)``. From two or more it is the line through the two points next
        to ``batch_size``.

        With one point, the result is never too low: for a larger size, memory that does not depend on the batch is
        counted as if it did. With more points, it is too low above the sizes that were run, so it is no upper bound
        there. Between two of them it is not too low, since peak memory is convex.

    Example:
        >>> predict_peak([(16, 1537), (32, 2849)], 64)
        5473.0
        >>> predict_peak([(16, 1537)], 32), predict_peak([(16, 1537)], 8)
        (3074.0, 1537.0)

    """
    known = check_points(points)
    size = check_int("batch_size", batch_size, 1)
    if not known:
        return None
    if len(known) == 1:
        ((run, peak),) = known
        return peak * max(size / run, 1.0)
    line = _line(known, sum(other <= size for other, _ in known))
    return line.peak + line.slope * (size - line.size)


def check_points(points: Any) -> list[Point]:
    """One point for each size, sorted by size; raises for anything else."""
    expected = "pairs of a batch size and its peak memory"
    known: dict[int, float] = {}
    for i, point in enumerate(check_iterable("points", points, expected)):
        pair = check_iterable(f"points[{i}]", point, "a batch size and its peak memory")
        if len(pair) != 2:
            wrong_value(f"points[{i}]", "a batch size and its peak memory", point)
        known[check_int(f"points[{i}][0]", pair[0], 1)] = check_number(f"points[{i}][1]", pair[1], minimum=0)
    return sorted(known.items())


def _line(known: list[Point], right: int) -> _Line:
    """The line through point ``right`` and the one before it, or through the two nearest."""
    right = min(max(right, 1), len(known) - 1)
    (x0, y0), (x1, y1) = known[right - 1 : right + 1]
    return _Line(x1, y1, (y1 - y0) / (x1 - x0))
