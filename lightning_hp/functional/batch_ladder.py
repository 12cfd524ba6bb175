"""Which batch size to time next, so that few of them tell where a larger batch stops being faster."""

from __future__ import annotations

import math
from collections.abc import Mapping

from numpy.typing import ArrayLike

from lightning_hp.functional.batch_throughput import medians_of, throughput_is_flat, throughput_knee
from lightning_hp.functional.checks import check_probability, check_whole

#: A rung that gains this factor over the one below is on the steep part, where rungs may be far apart.
STEEP = 1.5

#: How far apart rungs may be there.
LONG_STEP = 4


def next_rung(
    samples_per_second: Mapping[int, ArrayLike], highest: int, within: float = 0.05, lowest: int | None = None
) -> int | None:
    """The next batch size to time on the way to the knee of the throughput.

    Climbs by four while each rung is much faster than the one below, then by two, until two rungs gain nothing or
    ``highest`` is reached; then goes back down into the gap below the knee, or below the first rung if that is the
    knee, until the knee is known to a factor of two. A single slow rung is looked into from below before it ends the
    climb.

    Args:
        samples_per_second: For each batch size that was timed its throughput, > 0, or several from repeats, whose
            median counts; at least one size.
        highest: The largest size that may be timed, >= 1.
        within: As for :func:`throughput_knee`.
        lowest: The smallest size that may be timed, >= 1: where the knee lies below it is of no interest. ``None``: the
            smallest timed one.

    Returns:
        A size from ``lowest`` to ``highest`` that was not timed yet, or ``None`` once there is nothing left to learn.

    Raises:
        ValueError: If there is no size, or an argument is out of its range.

    Costs nothing. Does not help where memory ends the climb first: then lower ``highest`` and ask again.

    Source: the rule is ours.

    Example:
        >>> speed = lambda size: size / (5 + size)  # samples per second of a step that takes 5 + size seconds
        >>> timed, size = {}, 8
        >>> while size is not None:
        ...     timed[size] = speed(size)
        ...     size = next_rung(timed, highest=4096)
        >>> list(timed), throughput_knee(timed)
        ([8, 32, 64, 128, 256, 512], 128)

    """
    check_probability("within", within)
    top = check_whole("highest", highest, least=1)
    timed = {size: median for size, median in sorted(medians_of(samples_per_second).items()) if size <= top}
    if not timed:
        return None
    bottom = min(timed) if lowest is None else check_whole("lowest", lowest, least=1)
    last = max(timed)
    below = max((size for size in timed if size < last), default=None)
    gain = timed[last] / timed[below] if below is not None else math.inf
    if below is not None and gain < 1 + within and last > 2 * below:
        return 2 * below
    if last < top and not throughput_is_flat(timed, within):
        return min((LONG_STEP if gain >= STEEP else 2) * last, top)
    return _into_the_gap(timed, within, bottom)


def _into_the_gap(timed: Mapping[int, float], within: float, bottom: int) -> int | None:
    """Half the knee if nothing between it and the next smaller size was timed; a quarter if nothing below was."""
    knee = throughput_knee(timed, within)
    below = max((size for size in timed if size < knee), default=None)
    if below is None:
        return max(knee // LONG_STEP, bottom) if knee > bottom else None
    return knee // 2 if knee // 2 > below and knee // 2 >= bottom else None
