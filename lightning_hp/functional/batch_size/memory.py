"""How much memory a batch takes, from sizes that were run: a straight line between the two that are nearest."""

from __future__ import annotations

import math
from collections.abc import Iterable

from lightning_hp.functional.checks import check_whole

Point = tuple[int, float]


def predict_batch_size(points: Iterable[Point], budget: float) -> int | None:
    """The largest batch whose peak memory is expected to stay within ``budget``.

    Peak memory is a maximum of straight lines: flat while the optimizer sets it, steep once the activations do. Only
    the two points next to the budget say where it is headed; a line through all of them promises too much.

    Args:
        points: Batch sizes that were run with the peak memory of each, in any order and unit; of a size that was run
            twice the later counts. Leave out sizes that ran out of memory, whose peak is not known.
        budget: The memory that may be used, in the same unit, > 0.

    Returns:
        The batch size, >= 0. ``None`` if there are fewer than two sizes, or the memory does not grow between them.

    Raises:
        ValueError: If a size, a peak or the budget is out of its range.

    Costs nothing. Does not help far beyond what was run: from below it expects too much, up to ten times for a vision
    transformer seen at 1 and 2 samples, so jump a few times the last size at most and measure again. Between a size
    within the budget and one beyond it, it errs on the safe side.

    Source: convexity; the errors are measurements of ours.

    Example:
        >>> resnet50 = [(4, 580), (8, 899), (16, 1537), (32, 2849)]  # MiB
        >>> predict_batch_size(resnet50, 5495)  # which 64 takes
        64

    """
    if not (budget > 0 and math.isfinite(budget)):
        raise ValueError(f"Expected `budget` to be a finite number > 0, but got {budget!r}.")
    known = _check_points(points)
    within = next((i for i, (_, peak) in enumerate(known) if peak > budget), len(known))
    line = _line(known, within)
    if line is None or line[1] <= 0:
        return None
    (size, peak), slope = line
    return max(0, math.floor(size + (budget - peak) / slope))


def predict_peak(points: Iterable[Point], batch_size: int) -> float | None:
    """The peak memory that is expected at ``batch_size``.

    Args:
        points: As for :func:`predict_batch_size`.
        batch_size: The size to predict for, >= 1.

    Returns:
        The peak, in the unit of the points; ``None`` if there are fewer than two sizes.

    Raises:
        ValueError: If a size or a peak is out of its range.

    Costs nothing. Does not help as an upper bound: beyond what was run it is too low, and only between two sizes that
    were run is it on the safe side.

    Source: as :func:`predict_batch_size`.

    Example:
        >>> predict_peak([(16, 1537), (32, 2849)], 64)
        5473.0

    """
    size = check_whole("batch_size", batch_size, least=1)
    known = _check_points(points)
    line = _line(known, sum(other <= size for other, _ in known))
    if line is None:
        return None
    (start, peak), slope = line
    return peak + slope * (size - start)


def _check_points(points: Iterable[Point]) -> list[Point]:
    """One point for each size, by size."""
    known: dict[int, float] = {}
    for size, peak in points:
        if not (peak >= 0 and math.isfinite(peak)):
            raise ValueError(f"Expected the peak memory of a batch to be a finite number >= 0, but got {peak!r}.")
        known[check_whole("batch size", size, least=1)] = float(peak)
    return sorted(known.items())


def _line(known: list[Point], right: int) -> tuple[Point, float] | None:
    """The line through point ``right`` and the one before it, or the two nearest: a point and its slope."""
    if len(known) < 2:
        return None
    right = min(max(right, 1), len(known) - 1)
    (x0, y0), (x1, y1) = known[right - 1 : right + 1]
    return (x1, y1), (y1 - y0) / (x1 - x0)
