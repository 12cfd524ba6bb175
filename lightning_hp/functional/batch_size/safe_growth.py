"""How much larger a batch may be where exceeding the memory ends the process.

Peak memory is taken to be ``a + b n + c n^2 + d n^3`` with ``c, d >= 0`` over the batch size n, or the maximum of such
curves: activations grow as n, a loss over all pairs as its square. An interpolation through known points by
``1, n, n^3`` lies above each of these curves beyond the last point, one by ``1, n, n^2`` below.

Pseudo-code:

    one point, or one that lies clearly below the line of those before it:
                    peak(m) <= peak(n) (m / n)^3
    two points:     all that grew between them has grown as n^3
    three or more:  the curve of 1, n, n^3 through the last three
    in any case:    not below peak(n) m / n, since another curve may be hidden below a flat one
                    the growth a seventh larger, since a peak is not exactly on a curve
                    and not below peak(n) (m / n)^3 / 1.1: whatever the points hide, a tenth more is taken at most
    not further than twice the distance between the last two points, where noise would decide

Points closer together than a tenth are one, since noise would decide how steep it is between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_hp.functional.batch_size.memory import Point, check_points, predict_batch_size, predict_peak

_APART = 1.1
_LARGER = 1.15
_BENT = 0.9
_OVER = 1.1
_MAX_DEGREE = 3
_MAX_JUMP = 2


def largest_peak(points: Sequence[Point], batch_size: int) -> float | None:
    """A peak that ``batch_size`` is not expected to exceed.

    Args:
        points: As for :func:`~lightning_hp.functional.predict_peak`.
        batch_size: The size, >= 1.

    Returns:
        The peak, in the unit of the points; infinite if it is too far from them; ``None`` if there is no point.

    Example:
        >>> largest_peak([(16, 1000)], 32), round(largest_peak([(16, 1000), (32, 2000), (64, 4000)], 128))
        (8000.0, 29091)

    """
    known = check_points(points)
    if not known or batch_size <= known[-1][0]:
        return predict_peak(known, batch_size)  # between two points: not too low, since peaks are convex
    return _bound(_last_on_a_curve(_apart(known)), batch_size)


def smallest_peak(points: Sequence[Point], batch_size: int) -> float | None:
    """A peak that ``batch_size`` is expected to reach: along a line, above the last point.

    Args:
        points: As for :func:`largest_peak`.
        batch_size: The size, >= 1.

    Returns:
        The peak; ``None`` if there is no point.

    """
    known = check_points(points)
    used = _apart(known) if known else known
    if len(used) == 1 or not known or batch_size <= known[-1][0]:
        return predict_peak(known, batch_size)
    return _line(used[-2:], batch_size)


def safe_batch_size(points: Sequence[Point], budget: float) -> int | None:
    """The largest size whose peak is not expected to exceed a budget.

    Args:
        points: As for :func:`largest_peak`.
        budget: The memory that may be used, > 0.

    Returns:
        The size, >= 0; ``None`` if there is no point, or no peak above 0.

    """
    known = check_points(points)
    if not known or known[-1][1] <= 0:
        return None
    last, peak = known[-1]
    if peak > budget:
        return predict_batch_size(known, budget)
    used = _last_on_a_curve(_apart(known))
    low, high = last, (1 + _MAX_JUMP) * last + 1
    if len(used) == 1:
        high = math.floor(last * (budget / peak) ** (1 / _MAX_DEGREE)) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _bound(used, middle) <= budget else (low, middle)
    # From few samples no size at all may be safe up to the cube: the next one is, if the points show it.
    return last + 1 if low == last and _expected(used, last + 1) <= budget else low


def _bound(used: Sequence[Point], batch_size: int) -> float:
    """A peak that a size above the last point does not exceed by more than a tenth, whatever the points hide."""
    last, peak = used[-1]
    cube = peak * (batch_size / last) ** _MAX_DEGREE
    return cube if len(used) == 1 else max(_expected(used, batch_size), cube / _OVER)


def _expected(used: Sequence[Point], batch_size: int) -> float:
    """A peak that a size above the last point does not exceed if the points are on one curve."""
    last, peak = used[-1]
    in_proportion = peak * batch_size / last
    if len(used) == 1:
        return in_proportion
    if batch_size > last + _MAX_JUMP * (last - used[-2][0]):
        return math.inf
    return peak + _LARGER * (max(_cubic(used[-3:], batch_size), _line(used[-2:], batch_size), in_proportion) - peak)


def _apart(known: Sequence[Point]) -> list[Point]:
    """The last points that are a tenth apart, in ascending order; at least two of them if there are two."""
    used = [known[-1]]
    for point in reversed(known[:-1]):
        if point[0] * _APART <= used[0][0]:
            used.insert(0, point)
    return [*known[-2:]] if len(used) == 1 else used


def _last_on_a_curve(used: list[Point]) -> list[Point]:
    """Only the last point where it lies clearly below the line through the two before it: those show no growth.

    Small blocks of memory, which the allocator keeps, make the peaks of small sizes too high.
    """
    is_bent_down = len(used) > 2 and used[-1][1] < _BENT * _line(used[-3:-1], used[-1][0])
    return used[-1:] if is_bent_down else used


def _line(points: Sequence[Point], size: int) -> float:
    (x0, y0), (x1, y1) = points
    return y1 + (y1 - y0) * (size - x1) / (x1 - x0)


def _cubic(points: Sequence[Point], size: int) -> float:
    """The curve of ``1, n, n^3`` through three points, that of ``1, n^3`` through two."""
    *before, (x1, y1), (x2, y2) = points
    if not before:
        return y2 + (y2 - y1) * (size**3 - x2**3) / (x2**3 - x1**3)
    ((x0, y0),) = before
    # Divided differences; those of n^3 are the sums of its arguments.
    bend = ((y2 - y1) / (x2 - x1) - (y1 - y0) / (x1 - x0)) / (x2 - x0) / (x0 + x1 + x2)
    if bend <= 0:
        return -math.inf  # a line lies higher
    slope = (y2 - y1) / (x2 - x1)
    return y2 + (size - x2) * (slope + bend * (size - x1) * (size + x1 + x2))
