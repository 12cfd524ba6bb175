"""The knee of a noisy throughput: a larger size has to gain more than the noise of the machine.

Pseudo-code:

    while (size := next_repeat(speeds)) is not None:
        time size once more
    batch size = steady_knee(speeds)

A size counts as slower than the best if it is below ``(1 - within) * best`` by more than one standard error of that
comparison. It is the rule of one standard error, by which the smallest tree or the sparsest model is chosen.

References:
    Breiman, Friedman, Olshen and Stone, *Classification and Regression Trees*, 1984.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import median

from lightning_hp.functional.batch_size.throughput import RUNG

#: The size below the knee is timed this often: it is given up only on evidence that one slow trial is not.
MIN_REPEATS = 3

#: No size is timed more often. The standard error falls with the root of the number.
MAX_REPEATS = 5

#: The noise of a trial that is assumed until more is measured, as a share of its throughput.
ASSUMED_NOISE = 0.03

# The median of the difference of two normal variables of standard deviation 1.
_MEDIAN_DIFFERENCE = 0.954


def steady_knee(speeds: Mapping[int, Sequence[float]], within: float) -> int:
    """The smallest batch size that is not slower than the best by more than ``within`` and the noise.

    Args:
        speeds: For each batch size its throughput in each trial, > 0.
        within: Share of the best throughput that may be lost, > 0 and < 1.

    Returns:
        The batch size.

    Example:
        >>> steady_knee({16: [80.0], 32: [89.0], 64: [100.0]}, within=0.1)
        64
        >>> steady_knee({16: [80.0], 32: [87.0, 89.0, 91.0], 64: [98.0, 100.0, 102.0]}, within=0.1)
        32

    """
    best, sigma = _best(speeds), noise(speeds)
    return min(size for size in speeds if _excess(speeds, size, best, within) <= _error(speeds, size, best, sigma))


def next_repeat(speeds: Mapping[int, Sequence[float]], within: float, min_val: int = 1) -> int | None:
    """The batch size to time once more, so that the knee does not depend on a trial that was disturbed.

    Args:
        speeds: As for :func:`steady_knee`.
        within: As for :func:`steady_knee`.
        min_val: A knee below this size does not matter.

    Returns:
        A size of ``speeds``, or ``None`` if the knee is as certain as repeats make it.

    """
    knee, best = steady_knee(speeds, within), _best(speeds)
    below = max((size for size in speeds if min_val <= size <= knee / RUNG), default=None)
    if below is not None and len(speeds[below]) < MIN_REPEATS:
        return below
    sigma = max(noise(speeds), ASSUMED_NOISE)
    for size in (below, knee):
        if size is None or size == best or size < min_val:
            continue
        fewest = min(size, best, key=lambda one: len(speeds[one]))
        is_close = abs(_excess(speeds, size, best, within)) < 2 * _error(speeds, size, best, sigma)
        if is_close and len(speeds[fewest]) < MAX_REPEATS:
            return fewest
    return None


def noise(speeds: Mapping[int, Sequence[float]]) -> float:
    """The relative standard deviation of a trial, from the differences of repeats; 0 without repeats.

    The median of the differences counts, since a machine is sometimes busy during a trial.
    """
    pairs = (combinations(map(math.log, repeats), 2) for repeats in speeds.values())
    differences = [abs(first - second) for repeats in pairs for first, second in repeats]
    return median(differences) / _MEDIAN_DIFFERENCE if differences else 0.0


def _best(speeds: Mapping[int, Sequence[float]]) -> int:
    """The fastest size."""
    return max(speeds, key=lambda size: median(speeds[size]))


def _excess(speeds: Mapping[int, Sequence[float]], size: int, best: int, within: float) -> float:
    """By which logarithm a size is slower than the share of the best that has to be kept."""
    return math.log((1 - within) * median(speeds[best]) / median(speeds[size]))


def _error(speeds: Mapping[int, Sequence[float]], size: int, best: int, sigma: float) -> float:
    """The standard error of the ratio of two throughputs."""
    return sigma * math.sqrt(1 / len(speeds[size]) + 1 / len(speeds[best]))
