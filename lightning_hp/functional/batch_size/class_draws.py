"""Drawing a batch: the classes with their frequencies, and how often one class alone comes too rarely."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_hp.functional.checks import check_whole

Array = NDArray[np.float64]


class Draws(NamedTuple):
    """The classes that batches are drawn from; those of equal size are one row, since they behave alike.

    Attributes:
        sizes: Samples of one class, rising, shape (rows,). With replacement only their ratios count.
        members: How many classes have that size, shape (rows,).
        replacement: Whether each sample is drawn from all of them (i.i.d.), or an epoch is shuffled and cut.
    """

    sizes: Array
    members: Array
    replacement: bool

    @property
    def total(self) -> float:
        """Samples in the dataset."""
        return float(self.sizes @ self.members)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return int(self.members.sum())


def check_draws(class_counts: ArrayLike, replacement: bool) -> Draws:
    """The classes as they are counted, or ``class_counts`` equal ones where it is a single number.

    Raises:
        ValueError: If there is no class, a count is negative or no number, or what the sampling needs is missing.

    """
    counts = np.asarray(class_counts, dtype=np.float64)
    if counts.ndim == 0:
        if not (counts >= 1 and np.isfinite(counts)) or counts % 1:
            raise ValueError(f"Expected `class_counts` to be a number of classes >= 1, but got {class_counts!r}.")
        if not replacement:
            raise ValueError(
                "Expected `class_counts` to be the samples of each class when drawing without replacement, but got a "
                f"number of classes, {class_counts!r}. Pass the counts, or replacement=True for a large dataset."
            )
        return Draws(np.ones(1), counts.reshape(1), replacement)
    if counts.ndim != 1 or not (np.all(np.isfinite(counts)) and np.all(counts >= 0) and counts.sum() > 0):
        raise ValueError(
            "Expected `class_counts` to be a number of classes, or one row with the samples of each class, but got "
            f"shape {counts.shape}: {np.array2string(counts, threshold=8, precision=3)}."
        )
    if not replacement and np.any(counts % 1):
        raise ValueError("Expected whole `class_counts` when drawing without replacement, but got fractions.")
    sizes, members = np.unique(counts, return_counts=True)
    return Draws(sizes, members.astype(np.float64), replacement)


def check_batch(
    batch_size: int, class_counts: ArrayLike, min_per_class: int, replacement: bool
) -> tuple[Draws, int, int]:
    """The classes, the batch size and the least count, all checked.

    Raises:
        ValueError: If one is out of its range, or the batch is larger than an epoch without replacement.

    """
    draws = check_draws(class_counts, replacement)
    size = check_whole("batch_size", batch_size, least=0)
    if not replacement and size > draws.total:
        raise ValueError(f"Expected `batch_size` <= {draws.total:.0f}, the samples there are, but got {batch_size!r}.")
    return draws, size, check_whole("min_per_class", min_per_class, least=0)


def can_have(draws: Draws, min_per_class: int) -> NDArray[np.bool_]:
    """Whether any batch at all has so many of a class, for each row."""
    return draws.sizes >= min_per_class if not draws.replacement else (draws.sizes > 0) | (min_per_class == 0)


def smallest_batch(draws: Draws, floor: int, enough: Callable[[int], bool]) -> int:
    """The smallest batch from ``floor`` on that is enough, where larger ones are too and a whole epoch certainly is."""
    most = math.inf if draws.replacement else draws.total
    low, high = floor, floor
    while high < most and not enough(high):
        low, high = high + 1, 2 * high
    return smallest(low, int(min(high, most)), enough)


def smallest(low: int, high: int, enough: Callable[[int], bool]) -> int:
    """The smallest batch from ``low`` to ``high`` that is enough, where ``high`` is known to be."""
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return low


def too_few(draws: Draws, batch_size: int, min_per_class: int) -> Array:
    """The probability that a class comes fewer than ``min_per_class`` times in a batch, for each row.

    A binomial tail with replacement, a hypergeometric one without, summed term by term in log space.
    """
    j = np.arange(min(min_per_class, batch_size + 1))
    own = draws.sizes[:, None]
    if draws.replacement:
        p = own / draws.total
        with np.errstate(divide="ignore", invalid="ignore"):
            log_hit, log_miss = j * np.log(p), (batch_size - j) * np.log1p(-p)
        # An event of probability zero that has to happen zero times is no obstacle.
        log_hit, log_miss = np.where(j == 0, 0.0, log_hit), np.where(batch_size == j, 0.0, log_miss)
        log_terms = log_choose(batch_size, j) + log_hit + log_miss
    else:
        log_terms = log_choose(own, j) + log_choose(draws.total - own, batch_size - j)
        log_terms = log_terms - log_choose(draws.total, batch_size)
    tail: Array = np.exp(log_terms).sum(axis=1)
    return np.minimum(tail, 1.0)


def log_choose(n: ArrayLike, k: ArrayLike) -> Array:
    """Log of the binomial coefficient, shape as the arguments broadcast; ``-inf`` where k of n cannot be chosen."""
    n, k = np.broadcast_arrays(np.asarray(n, dtype=np.float64), np.asarray(k, dtype=np.float64))
    possible = (k >= 0) & (k <= n)
    k = np.where(possible, k, 0)
    logs = log_factorial(n) - log_factorial(k) - log_factorial(n - k)
    return np.where(possible, logs, -np.inf)


def log_factorial(n: Array) -> Array:
    """Log of n!, shape as ``n``: the standard library's, since NumPy has none."""
    return np.array([math.lgamma(x + 1) for x in n.ravel()], dtype=np.float64).reshape(n.shape)
