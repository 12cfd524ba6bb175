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
