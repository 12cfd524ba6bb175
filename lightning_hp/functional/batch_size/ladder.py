"""The batch size of a training that has one already: whether a quarter, or four times, of it is the better size.

Pseudo-code:

    sizes = ..., present / 16, present / 4, present, 4 * present, 16 * present, ...
    while (size := next_trial(speeds, sizes)) is not None:
        time size
    batch size = smallest_fast_size(speeds, sizes)

A curve of throughputs is smooth and its measurement is noisy, so a rule that reads a size from it answers differently
from run to run where the curve lies on the threshold. Steps of four instead of two halve the number of thresholds. A
share of 30 % of the throughput instead of 15 % has them where the curve is twice as steep. Both make such answers less
frequent at no cost in trials; repeating the sizes that decide does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from lightning_hp.functional.batch_size.steady import ASSUMED_NOISE, noise

#: The factor between two sizes.
FACTOR = 4

#: Two sizes are at least this factor apart, also where a limit is in between.
LEAST_FACTOR = 2

#: A size that gains less than this share on all smaller ones ends the search for faster ones.
GAIN = 0.1

#: Repeats of one size that differ by more than this share are not believed before a third.
DISAGREEMENT = 0.25

#: No size is timed more often.
MAX_REPEATS = 6


def ladder(anchor: int, lowest: int, highest: int) -> list[int]:
    """The sizes to choose from: the anchor times powers of four, and the limits if they are far enough from those.

    Args:
        anchor: The present size, within the limits.
        lowest: The smallest size.
        highest: The largest size.

    Returns:
        The sizes in ascending order.

    Example:
        >>> ladder(32, 2, 4096)
        [2, 8, 32, 128, 512, 2048, 4096]
        >>> ladder(32, 5, 100)
        [8, 32, 100]

    """
    sizes = [anchor]
    while sizes[-1] * FACTOR <= highest:
        sizes.append(sizes[-1] * FACTOR)
    while sizes[0] // FACTOR >= lowest:
        sizes.insert(0, sizes[0] // FACTOR)
    above = [highest] if highest >= LEAST_FACTOR * sizes[-1] else []
    below = [lowest] if LEAST_FACTOR * lowest <= sizes[0] else []
    return [*below, *sizes, *above]


def smallest_fast_size(speeds: Mapping[int, Sequence[float]], sizes: Sequence[int], share: float) -> int | None:
    """The smallest of the sizes whose throughput is at least a share of the best.

    Args:
        speeds: For each batch size its throughput in each trial, > 0.
        sizes: The sizes to choose from; those that were not timed do not count.
        share: Share of the best throughput, > 0 and < 1.

    Returns:
        The size, or ``None`` if none of them was timed.

    Example:
        >>> smallest_fast_size({8: [40.0], 32: [80.0, 20.0, 82.0], 128: [100.0]}, [8, 32, 128], share=0.7)
        32

    """
    typical = {size: median(speeds[size]) for size in sizes if size in speeds}
    fastest = max(typical.values(), default=0.0)
    return min((size for size, speed in typical.items() if speed >= share * fastest), default=None)


def next_trial(speeds: Mapping[int, Sequence[float]], sizes: Sequence[int], share: float) -> int | None:
    """The size to time next: a larger one while that is faster, a smaller one, then those that decide once more.

    A slow trial may be an accident and a fast one is not: a size is given up after two trials that agree.

    Args:
        speeds: As for :func:`smallest_fast_size`.
        sizes: The sizes to choose from, in ascending order.
        share: As for :func:`smallest_fast_size`.

    Returns:
        One of ``sizes``, or ``None`` if the choice is as certain as repeats make it.

    """
    timed = [size for size in sizes if size in speeds]
    if not timed:
        return min(sizes, default=None)
    typical = {size: median(speeds[size]) for size in timed}
    last = timed[-1]
    if last < sizes[-1]:
        if not is_level(speeds, sizes):
            return next(size for size in sizes if size > last)
        if not _is_confirmed(speeds[last]):
            return last
    chosen = min(size for size in timed if typical[size] >= share * max(typical.values()))
    below = max((size for size in sizes if size < chosen), default=None)
    if below is not None and (below not in speeds or not _is_confirmed(speeds[below])):
        return below
    best = max(timed, key=typical.__getitem__)
    sigma = max(noise(speeds), ASSUMED_NOISE)
    for size in (below, chosen):
        if size in (None, best):
            continue
        excess = abs(math.log(share * typical[best] / typical[size]))
        error = sigma * math.sqrt(1 / len(speeds[size]) + 1 / len(speeds[best]))
        fewest = min(size, best, key=lambda one: len(speeds[one]))
        if excess < 2 * error and len(speeds[fewest]) < MAX_REPEATS:
            return fewest
    return None


def is_level(speeds: Mapping[int, Sequence[float]], sizes: Sequence[int]) -> bool:
    """Whether the largest of the sizes that was timed gains too little on the smaller ones to try larger ones.

    Example:
        >>> is_level({8: [1.0], 32: [2.0]}, [8, 32, 128]), is_level({8: [1.0], 32: [2.0], 128: [2.1]}, [8, 32, 128])
        (False, True)

    """
    typical = [median(speeds[size]) for size in sizes if size in speeds]
    return len(typical) > 1 and typical[-1] <= (1 + GAIN) * max(typical[:-1])


def _is_confirmed(repeats: Sequence[float]) -> bool:
    """Whether there are two trials that agree, or three."""
    return len(repeats) > 2 or (len(repeats) == 2 and max(repeats) <= (1 + DISAGREEMENT) * min(repeats))
