"""How likely a batch contains enough samples of every class, and the smallest batch that does.

Pseudo-code, with X_c the samples of class c in a batch, k the samples that each class needs, C the number of classes:

    P(X_c >= k):             binomial (with replacement) or hypergeometric (a shuffled epoch) tail
    P(X_c >= k for all c)  ~ product of P(X_c >= k) over the classes, an upper bound; 0 for fewer than k * C samples
    expected share         = mean of P(X_c >= k) over the classes
    smallest batch         = bisection, since both grow with the batch

The bound is close: the samples of the classes are negatively associated, so the product is not below the probability,
and 1 - sum of P(X_c < k) is not above it. Both bounds meet where the probability is high.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from lightning_hp.functional.batch_size.class_draws import ClassDraws, check_draws
from lightning_hp.functional.checks import MAX_INT, check_int, check_number, wrong_value

# The terms of a tail are added one by one.
_MAX_PER_CLASS = 100_000


def coverage_probability(
    batch_size: int, class_counts: ArrayLike, min_per_class: int = 1, *, replacement: bool = True
) -> float:
    """The approximate probability that every class occurs at least ``min_per_class`` times in a batch.

    Args:
        batch_size: Samples in the batch, >= 0: of one optimizer step or of one micro-batch.
        class_counts: A number of equally frequent classes, or the samples of each class, shape (classes,).
        min_per_class: How often each class has to occur, from 0 to 100000.
        replacement: ``True`` for i.i.d. draws (a weighted sampler, or a dataset much larger than the batch), ``False``
            for a batch of a shuffled epoch, which covers the classes slightly better. ``False`` needs the samples of
            each class.

    Returns:
        The probability, in [0, 1].

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range, or the batch is larger than an epoch without replacement.

    Note:
        The result is the product of the probabilities of each class, an upper bound: the exact probability is never
        higher. Compared with exact values for 2 to 1000 balanced and unbalanced classes it is at most 0.005 too high
        where the exact probability is 0.9 or more, 0.07 where it is 0.5 or more, and 0.17 elsewhere. It is 0 for
        a batch of fewer than ``min_per_class`` times the classes, and exact for a whole epoch. The draws have to be
        random: a sampler whose batches all contain every class covers them with certainty.

    References:
        K. Joag-Dev and F. Proschan, *Negative Association of Random Variables with Applications*, 1983 (the bound).

    Example:
        >>> f"{coverage_probability(89, 10, min_per_class=3):.3f}"
        '0.951'
        >>> f"{coverage_probability(89, [20] * 10, min_per_class=3, replacement=False):.3f}"
        '0.994'

    """
    draws, size, least = _check_batch(batch_size, class_counts, min_per_class, replacement)
    return _coverage(draws, size, least)


def batch_size_for_coverage(
    coverage: float, class_counts: ArrayLike, min_per_class: int = 1, *, replacement: bool = True
) -> int | None:
    """The smallest batch that contains every class at least ``min_per_class`` times with probability ``coverage``.

    Args:
        coverage: The wanted probability, > 0 and < 1.
        class_counts: A number of equally frequent classes, or the samples of each class, shape (classes,).
        min_per_class: How often each class has to occur, from 0 to 100000.
        replacement: As for :func:`coverage_probability`.

    Returns:
        The batch size, >= 1. ``None`` if there is none, because a class has too few samples or is too rare for any
        batch.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.

    Note:
        It uses the upper bound of :func:`coverage_probability`, so it may be too small. Compared with exact values for
        2 to 1000 balanced and unbalanced classes and a coverage of 0.5 or more, it is at most 2 samples or 1 % too
        small, and at most 1 sample for a coverage of 0.95 or more. If it exceeds what memory allows, accumulate
        batches, or draw balanced batches, for which ``min_per_class`` times the number of classes is enough.

    References:
        As for :func:`coverage_probability`.

    Example:
        >>> [batch_size_for_coverage(0.95, classes, min_per_class=3) for classes in (5, 10, 100)]
        [39, 89, 1198]

    """
    draws = check_draws(class_counts, replacement)
    least = check_int("min_per_class", min_per_class, 0, _MAX_PER_CLASS)
    wanted = check_number("coverage", coverage, above=0, below=1)
    if not draws.is_possible(least).all():
        return None
    return _smallest_batch(draws, least * draws.all_classes, lambda size: _coverage(draws, size, least) >= wanted)


def covered_share(
    batch_size: int, class_counts: ArrayLike, min_per_class: int = 1, *, replacement: bool = True
) -> float:
    """The expected share of the classes that occur at least ``min_per_class`` times in a batch.

    Args:
        batch_size: Samples in the batch, >= 0.
        class_counts: A number of equally frequent classes, or the samples of each class, shape (classes,).
        min_per_class: How often a class has to occur, from 0 to 100000.
        replacement: As for :func:`coverage_probability`.

    Returns:
        The expected share, in [0, 1]. It is exact.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range, or the batch is larger than an epoch without replacement.

    Note:
        A high share is not enough for a loss that needs every class: with a hundred classes and a share of 0.99, a
        typical batch lacks one of them.

    Example:
        >>> f"{covered_share(3 * 35, 35, min_per_class=2):.2f}"  # 3 of each on average
        '0.81'

    """
    draws, size, least = _check_batch(batch_size, class_counts, min_per_class, replacement)
    return _share(draws, size, least)


def batch_size_for_share(
    share: float, class_counts: ArrayLike, min_per_class: int = 1, *, replacement: bool = True
) -> int | None:
    """The smallest batch in which the expected share of the classes with ``min_per_class`` samples is ``share``.

    Args:
        share: The wanted share, > 0 and < 1.
        class_counts: A number of equally frequent classes, or the samples of each class, shape (classes,).
        min_per_class: How often a class has to occur, from 0 to 100000.
        replacement: As for :func:`coverage_probability`.

    Returns:
        The batch size, >= 1. ``None`` if there is none, because too many classes have too few samples or are too rare
        for any batch.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.

    Note:
        It has the limits of :func:`covered_share`. It is useful for many classes: the batch that contains all of them
        grows with their number times its logarithm.

    Example:
        >>> [batch_size_for_share(0.95, classes, min_per_class=3) for classes in (10, 1000)]
        [61, 6294]

    """
    draws = check_draws(class_counts, replacement)
    least = check_int("min_per_class", min_per_class, 0, _MAX_PER_CLASS)
    wanted = check_number("share", share, above=0, below=1)
    if draws.num_classes @ draws.is_possible(least) < wanted * draws.all_classes:
        return None
    return _smallest_batch(draws, 1, lambda size: _share(draws, size, least) >= wanted)


def batch_size_for_average(class_counts: ArrayLike, min_per_class: int) -> int:
    """The batch size with ``min_per_class`` samples for each class on average: ``min_per_class`` times the classes.

    Args:
        class_counts: A number of classes, or the samples of each class, shape (classes,), each > 0. Only the number of
            classes matters.
        min_per_class: Samples for each class, from 0 to 100000, on average over the classes.

    Returns:
        The batch size, >= 1.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range, or a class has no samples.

    Note:
        It is a rule of thumb and no guarantee. Of ten equally frequent classes and 3 of each on average, a batch
        contains 2 or more of every one in only 7 of 100 draws. Of unequal classes the rare ones occur less often than
        ``min_per_class`` times: with 100 and 300 samples, a batch of 6 contains 1.5 of the first class on average.
        :func:`coverage_probability` says how likely a batch contains enough of every class, and
        :func:`batch_size_for_coverage` how large it has to be.

    Example:
        >>> batch_size_for_average(5, 3), batch_size_for_average([100, 300], 3)
        (15, 6)

    """
    draws = check_draws(class_counts, replacement=True)
    least = check_int("min_per_class", min_per_class, 0, _MAX_PER_CLASS)
    if draws.sizes[0] == 0:
        wrong_value("class_counts", "> 0 for each class, since no batch contains a class without samples", class_counts)
    return max(1, least * draws.all_classes)


def _check_batch(
    batch_size: int, class_counts: ArrayLike, min_per_class: int, replacement: bool
) -> tuple[ClassDraws, int, int]:
    draws = check_draws(class_counts, replacement)
    size = check_int("batch_size", batch_size, 0)
    if not replacement and size > draws.num_samples:
        wrong_value("batch_size", f"<= {draws.num_samples:.0f}, the samples of an epoch", size)
    return draws, size, check_int("min_per_class", min_per_class, 0, _MAX_PER_CLASS)


def _coverage(draws: ClassDraws, size: int, least: int) -> float:
    if size < least * draws.all_classes or not draws.is_possible(least).all():
        return 0.0
    enough = 1 - draws.probability_of_fewer(size, least)
    return float(np.prod(enough**draws.num_classes))


def _share(draws: ClassDraws, size: int, least: int) -> float:
    return 1 - float(draws.num_classes @ draws.probability_of_fewer(size, least)) / draws.all_classes


def _smallest_batch(draws: ClassDraws, floor: int, is_enough: Callable[[int], bool]) -> int | None:
    """The smallest batch from ``floor`` on that is enough, where all larger ones are too; ``None`` if there is none."""
    highest = MAX_INT if draws.replacement else int(draws.num_samples)
    low = high = max(floor, 1)
    while high < highest and not is_enough(high):
        low, high = high + 1, min(2 * high, highest)
    size = low + bisect_left(range(low, high), True, key=is_enough)
    return size if size < high or is_enough(size) else None
