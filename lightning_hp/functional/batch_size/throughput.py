"""The smallest batch size that is as fast as any: the knee of the throughput, and which sizes to time to find it.

Pseudo-code:

    size = a small batch
    while size is not None:
        time some training steps at size
        size = next_rung(...)       4 times, then 2 times the last size while the throughput rises, then back into the
                                    gap below the knee
    batch size = throughput_knee(...)

The sizes that are timed are the rungs of a ladder. A rung is a size together with the timed sizes less than 1.4
times below it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from lightning_hp.functional.checks import check_array, check_instance, check_int, check_number, wrong_value

#: Sizes closer to each other than this factor are one rung, since the throughput rises little between them.
RUNG = 1.4

#: A throughput that is this factor above that of the rung below rises steeply. There rungs may be far apart.
STEEP = 1.5

#: The factor between rungs where the throughput rises steeply.
LONG_STEP = 4


def throughput_knee(samples_per_second: Mapping[int, ArrayLike], within: float = 0.05) -> int:
    """The smallest batch size whose throughput is within ``within`` of the best.

    Args:
        samples_per_second: For each batch size its throughput, finite and > 0, or several from repeats, whose median
            counts.
        within: Share of the best throughput that may be lost, > 0 and < 1.

    Returns:
        The batch size. If the throughput still rises at the largest size, that size.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there is no size, or a size, a throughput or ``within`` is out of its range.

    Note:
        If the data loader is slower than the training step, measure with the loader of the training.

    Example:
        >>> throughput_knee({16: 257, 32: 379, 64: 471, 128: 476})
        64
        >>> throughput_knee({2: [540, 543, 560], 4: [1100, 125, 1090], 8: [1900, 1950, 330]})  # a busy machine
        8

    """
    medians = medians_of(samples_per_second)
    share = check_number("within", within, above=0, below=1)
    best = max(medians.values())
    return min(size for size, speed in medians.items() if speed >= (1 - share) * best)


def throughput_is_flat(samples_per_second: Mapping[int, ArrayLike], within: float = 0.05) -> bool:
    """Whether growing batches no longer pay: the last two rungs gained nothing, and the throughput does not rise again.

    A single slow rung does not count, since a machine is sometimes busy. Sizes less than 1.4 times apart count as one
    rung with the best of their throughputs, since a search for the memory limit runs sizes that are close together.

    Args:
        samples_per_second: As for :func:`throughput_knee`; the sizes in any order.
        within: The smallest share above the best of the earlier rungs that counts as a gain, > 0 and < 1.

    Returns:
        Whether it is flat. ``False`` with fewer than three rungs.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there is no size, or a size, a throughput or ``within`` is out of its range.

    Note:
        On a machine that is busy during several rungs the answer may be wrong. Then repeat the measurements.

    Example:
        >>> throughput_is_flat({32: 379, 64: 471, 128: 476}), throughput_is_flat({64: 471, 128: 476, 256: 470})
        (False, True)

    """
    medians = medians_of(samples_per_second)
    share = check_number("within", within, above=0, below=1)
    rungs: list[float] = []  # from the largest
    smallest = math.inf
    for size, speed in sorted(medians.items(), reverse=True):
        if rungs and size * RUNG > smallest:
            rungs[-1] = max(rungs[-1], speed)
        else:
            rungs.append(speed)
            smallest = size
    if len(rungs) < 3:
        return False
    last, previous, *before = rungs
    return max(previous, last) < (1 + share) * max(before) and last < (1 + share) * previous


def next_rung(
    samples_per_second: Mapping[int, ArrayLike], max_val: int, within: float = 0.05, min_val: int | None = None
) -> int | None:
    """The next batch size to time, to find the knee of the throughput.

    The sizes grow by a factor of four while each is much faster than the one before, then by two, until the throughput
    is flat or ``max_val`` is reached. Then sizes below the knee, or below the first size if that is the knee, are timed
    until the knee is known to a factor of two. After a single slow size, the size half-way to it is timed before the
    growth ends.

    Args:
        samples_per_second: For each batch size that was timed its throughput, finite and > 0, or several from repeats,
            whose median counts; at least one size.
        max_val: The largest size to time, >= 1.
        within: As for :func:`throughput_knee`.
        min_val: The smallest size to time, >= 1; a knee below it does not matter. ``None``: the smallest timed one.

    Returns:
        A size up to ``max_val`` that was not timed yet, or ``None`` if the knee is known.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there is no size, or an argument is out of its range.

    Note:
        If memory runs out at a size, call it again with a lower ``max_val``.

    Example:
        >>> speed = lambda size: size / (5 + size)  # samples per second of a step that takes 5 + size seconds
        >>> timed, size = {}, 8
        >>> while size is not None:
        ...     timed[size] = speed(size)
        ...     size = next_rung(timed, max_val=4096)
        >>> list(timed), throughput_knee(timed)
        ([8, 32, 64, 128, 256, 512], 128)

    """
    medians = medians_of(samples_per_second)
    top = check_int("max_val", max_val, 1)
    share = check_number("within", within, above=0, below=1)
    bottom = None if min_val is None else check_int("min_val", min_val, 1, also="None")
    timed = {size: speed for size, speed in sorted(medians.items()) if size <= top}
    if not timed:
        return None
    last = max(timed)
    below = max((size for size in timed if size < last), default=None)
    gain = math.inf if below is None else timed[last] / timed[below]
    if below is not None and gain < 1 + share and last > 2 * below:
        return 2 * below
    if last < top and not throughput_is_flat(timed, share):
        return min((LONG_STEP if gain >= STEEP else 2) * last, top)
    return _size_below_knee(timed, share, min(timed) if bottom is None else bottom)


def medians_of(samples_per_second: Mapping[int, ArrayLike]) -> dict[int, float]:
    """The median throughput of each batch size.

    Raises:
        TypeError: If it is no mapping, or a size or a throughput is of the wrong type.
        ValueError: If there is no size, or a size or a throughput is out of its range.

    """
    expected = "a mapping from batch sizes to throughputs"
    check_instance("samples_per_second", samples_per_second, Mapping, expected)
    if not samples_per_second:
        wrong_value("samples_per_second", f"{expected}, with at least one size", samples_per_second)
    medians = {}
    for key, repeats in samples_per_second.items():
        size = check_int("batch size", key, 1)
        name, what = f"samples_per_second[{size}]", "one or more finite numbers > 0"
        values = check_array(name, repeats, what)
        if values.size == 0 or not np.all((values > 0) & np.isfinite(values)):
            wrong_value(name, what, repeats)
        medians[size] = float(np.median(values))
    return medians


def _size_below_knee(timed: Mapping[int, float], within: float, min_val: int) -> int | None:
    """Half the knee if no size between it and the next smaller one was timed; a quarter if no smaller one was."""
    knee = throughput_knee(timed, within)
    below = max((size for size in timed if size < knee), default=None)
    if below is None:
        return max(knee // LONG_STEP, min_val) if knee > min_val else None
    return knee // 2 if knee // 2 > below and knee // 2 >= min_val else None
