"""Where a larger batch stops being faster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

import numpy as np
from numpy.typing import ArrayLike

from lightning_hp.functional.checks import check_probability, check_whole

#: Sizes that are closer than this factor are one rung: what lies between them gains little however fast it is.
RUNG = 1.4


def throughput_knee(samples_per_second: Mapping[int, ArrayLike], within: float = 0.05) -> int:
    """The smallest batch whose throughput is within ``within`` of the best: beyond it a larger one buys nothing.

    Args:
        samples_per_second: For each batch size a throughput, > 0, or several from repeats, whose median counts.
        within: Share of the best throughput to give away, > 0 and < 1.

    Returns:
        The batch size.

    Raises:
        ValueError: If there is no size, or a size or a throughput is out of its range.

    Costs nothing. Does not help where the loader sets the pace: measure with the loader that trains.

    Source: a definition; where the throughput still rises at the largest size, that size is the answer.

    Example:
        >>> throughput_knee({16: 257, 32: 379, 64: 471, 128: 476})
        64
        >>> throughput_knee({2: [540, 543, 560], 4: [1100, 125, 1090], 8: [1900, 1950, 330]})  # a busy machine
        8

    """
    medians = medians_of(samples_per_second)
    check_probability("within", within)
    best = max(medians.values())
    return min(size for size, speed in medians.items() if speed >= (1 - within) * best)


def throughput_is_flat(samples_per_second: Mapping[int, ArrayLike], within: float = 0.05) -> bool:
    """Whether a ladder of growing batches may stop: the two last rungs gained nothing, and it is not rising again.

    One slow rung says nothing, since a machine is busy now and then: a search that stops there ends at a fraction of
    the best throughput. Nor do sizes next to each other, as a search of the memory limit tries them: those less than
    1.4 times apart are one rung, at the best of them.

    Args:
        samples_per_second: As for :func:`throughput_knee`; the sizes in any order.
        within: The gain over the best rung before them that counts as one, as a share, > 0 and < 1.

    Returns:
        ``False`` with fewer than three rungs.

    Raises:
        ValueError: If there is no size, or a size or a throughput is out of its range.

    Costs nothing. Does not help against a machine that stays busy for several rungs: then repeat the ladder.

    Source: the rule is ours.

    Example:
        >>> throughput_is_flat({32: 379, 64: 471, 128: 476}), throughput_is_flat({64: 471, 128: 476, 256: 470})
        (False, True)

    """
    check_probability("within", within)
    rungs: list[float] = []
    above = math.inf
    for size, speed in sorted(medians_of(samples_per_second).items(), reverse=True):
        if rungs and size * RUNG > above:
            rungs[-1] = max(rungs[-1], speed)
        else:
            rungs.append(speed)
            above = size
    if len(rungs) < 3:
        return False
    last, previous, *before = rungs
    return max(previous, last) < (1 + within) * max(before) and last < (1 + within) * previous


def medians_of(samples_per_second: Mapping[int, ArrayLike]) -> dict[int, float]:
    """One throughput for each size."""
    if not samples_per_second:
        raise ValueError("Expected `samples_per_second` of one batch size or more, but got none.")
    medians = {}
    for size, repeats in samples_per_second.items():
        values = np.asarray(repeats, dtype=np.float64).ravel().tolist()
        if not values or not all(0 < value < math.inf for value in values):
            raise ValueError(f"Expected throughputs > 0 for batch size {size}, but got {repeats!r}.")
        medians[check_whole("batch size", size, least=1)] = median(values)
    return medians


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
