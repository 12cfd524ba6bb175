"""How surely a batch holds every class often enough, and the smallest batch that does."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from lightning_hp.functional.batch_size.class_draws import (
    Draws,
    can_have,
    check_batch,
    check_draws,
    smallest,
    smallest_batch,
    too_few,
)
from lightning_hp.functional.batch_size.multinomial import log_coverage
from lightning_hp.functional.checks import check_probability, check_whole


def coverage_probability(
    batch_size: int, class_counts: ArrayLike, min_per_class: int = 1, *, replacement: bool = True, exact: bool = True
) -> float:
    """The probability that every class comes at least ``min_per_class`` times in a batch.

    Args:
        batch_size: Samples in the batch, >= 0: of one optimizer step or of one micro-batch, whichever is asked about.
        class_counts: A number of equally frequent classes, or the samples of each class, shape (classes,).
        min_per_class: How often each class has to come, >= 0.
        replacement: ``True`` for i.i.d. draws (a weighted sampler, or a dataset much larger than the batch), ``False``
            for a batch of a shuffled epoch, which covers the classes a little better. Needs the samples of each class.
        exact: ``False`` for the lower bound 1 - sum of P(class comes too rarely), never too high.

    Returns:
        The probability, in [0, 1]. Exact to about 1e-9 in its logarithm, so far below 1 too.

    Raises:
        ValueError: If an argument is out of its range, or the batch is larger than an epoch without replacement.

    Costs a millisecond for equal classes, and some tenths of a second for 1000 classes of 1000 different sizes; the
    bound a few milliseconds. Does not help with a sampler that arranges the classes, which covers them for certain.

    Source: Levin, *A Representation for Multinomial Cumulative Distribution Functions*, 1981.

    Example:
        >>> f"{coverage_probability(30, 10, min_per_class=2):.3f}"  # 3 of each on average
        '0.069'
        >>> f"{coverage_probability(30, [20] * 10, min_per_class=2, replacement=False):.3f}"
        '0.103'

    """
    draws, size, least = check_batch(batch_size, class_counts, min_per_class, replacement)
    return _coverage(draws, size, least) if exact else _at_least(draws, size, least)


def batch_size_for_coverage(
    coverage: float, class_counts: ArrayLike, min_per_class: int = 1, *, replacement: bool = True, exact: bool = True
) -> int | None:
    """The smallest batch that holds every class at least ``min_per_class`` times with probability ``coverage``.

    Args:
        coverage: The wanted probability, > 0 and < 1.
        class_counts: A number of equally frequent classes, or the samples of each class, shape (classes,).
        min_per_class: How often each class has to come, >= 0.
        replacement: As for :func:`coverage_probability`.
        exact: ``False`` for the lower bound, whose batch is at most 1 to 2 % too large at a coverage of 0.95.

    Returns:
        The batch size, >= 1; ``None`` if none will do, because a class has fewer samples than it takes.

    Raises:
        ValueError: If an argument is out of its range.

    Costs some ten evaluations of :func:`coverage_probability`. Does not help where it exceeds what fits: then
    accumulate, or draw balanced batches, for which ``min_per_class`` times the classes is enough.

    Source: as :func:`coverage_probability`; the bracket is Bonferroni's inequality and the product bound of Joag-Dev
    and Proschan, *Negative Association of Random Variables*, 1983.

    Example:
        >>> [batch_size_for_coverage(0.95, classes, min_per_class=3) for classes in (5, 10, 100)]
        [39, 89, 1198]

    """
    draws = check_draws(class_counts, replacement)
    least = check_whole("min_per_class", min_per_class, least=0)
    check_probability("coverage", coverage)
    if not can_have(draws, least).all():
        return None
    floor = max(1, least * draws.num_classes)
    high = smallest_batch(draws, floor, lambda size: _at_least(draws, size, least) >= coverage)
    if not exact:
        return high
    # The exact probability lies between a lower and an upper bound that are close, so the batch is bracketed.
    low = smallest(floor, high, lambda size: _at_most(draws, size, least) >= coverage)
    return smallest(low, high, lambda size: _coverage(draws, size, least) >= coverage)


def _coverage(draws: Draws, size: int, least: int) -> float:
    if least == 0:
        return 1.0
    if size < least * draws.num_classes or not can_have(draws, least).all():
        return 0.0
    if draws.num_classes == 1 or (not draws.replacement and size == draws.total):
        return 1.0
    exact = math.exp(log_coverage(draws, size, least))
    return min(1.0, max(exact, _at_least(draws, size, least)))  # where it is all but sure the bound rounds less


def _at_least(draws: Draws, size: int, least: int) -> float:
    """Bonferroni: the chances that a class comes too rarely add up at worst."""
    return max(0.0, 1 - float(draws.members @ too_few(draws, size, least)))


def _at_most(draws: Draws, size: int, least: int) -> float:
    """The product over the classes: a batch full of one class has less room for the others."""
    return float(np.prod((1 - too_few(draws, size, least)) ** draws.members))


def covered_share(
    batch_size: int, class_counts: ArrayLike, min_per_class: int = 1, *, replacement: bool = True
) -> float:
    """The share of the classes that come at least ``min_per_class`` times in a batch, on average.

    Args:
        batch_size: Samples in the batch, >= 0.
        class_counts: A number of equally frequent classes, or the samples of each class, shape (classes,).
        min_per_class: How often a class has to come, >= 0.
        replacement: As for :func:`coverage_probability`.

    Returns:
        The expected share, in [0, 1].

    Raises:
        ValueError: If an argument is out of its range, or the batch is larger than an epoch without replacement.

    Costs under a millisecond, or some for 1000 classes of different sizes. Does not help a loss that needs every class:
    with a hundred classes a share of 0.99 leaves one of them out in the typical batch.

    Source: the binomial and the hypergeometric distribution.

    Example:
        >>> f"{covered_share(3 * 35, 35, min_per_class=2):.2f}"  # 3 of each on average
        '0.81'

    """
    draws, size, least = check_batch(batch_size, class_counts, min_per_class, replacement)
    return _share(draws, size, least)


def batch_size_for_share(
    share: float, class_counts: ArrayLike, min_per_class: int = 1, *, replacement: bool = True
) -> int | None:
    """The smallest batch in which that share of the classes comes at least ``min_per_class`` times, on average.

    Args:
        share: The wanted share, > 0 and < 1.
        class_counts: A number of equally frequent classes, or the samples of each class, shape (classes,).
        min_per_class: How often a class has to come, >= 0.
        replacement: As for :func:`coverage_probability`.

    Returns:
        The batch size, >= 1; ``None`` if none will do, because too many classes have fewer samples than it takes.

    Raises:
        ValueError: If an argument is out of its range.

    Costs some twenty evaluations of :func:`covered_share`. Does not help where that does not; it is what remains within
    reach for many classes, since the batch for all of them grows with their number times its logarithm.

    Source: as :func:`covered_share`.

    Example:
        >>> [batch_size_for_share(0.95, classes, min_per_class=3) for classes in (10, 1000)]
        [61, 6294]

    """
    draws = check_draws(class_counts, replacement)
    least = check_whole("min_per_class", min_per_class, least=0)
    check_probability("share", share)
    if draws.members @ can_have(draws, least) < share * draws.num_classes:
        return None
    return smallest_batch(draws, 1, lambda size: _share(draws, size, least) >= share)


def batch_size_for_average(class_counts: ArrayLike, min_per_class: int) -> int:
    """The smallest batch in which every class comes ``min_per_class`` times on average: k for each of C equal classes.

    Args:
        class_counts: A number of equally frequent classes, or the samples of each class, shape (classes,): then the
            rarest one decides.
        min_per_class: How often each class has to come on average, >= 0.

    Returns:
        The batch size, >= 1.

    Raises:
        ValueError: If an argument is out of its range, or a class has no samples.

    Costs nothing. Does not help as a guarantee: with ten classes and 3 of each on average, a batch holds 2 or more of
    every one in 7 of 100 draws. :func:`coverage_probability` says how often.

    Source: a rule of thumb of practice, for balanced classes.

    Example:
        >>> batch_size_for_average(5, 3), batch_size_for_average([100, 300], 3)
        (15, 12)

    """
    draws = check_draws(class_counts, replacement=True)
    least = check_whole("min_per_class", min_per_class, least=0)
    if draws.sizes[0] == 0:
        raise ValueError("Expected `class_counts` > 0, since a class without samples is in no batch, but got a 0.")
    return max(1, math.ceil(least * draws.total / float(draws.sizes[0])))


def _share(draws: Draws, size: int, least: int) -> float:
    return 1 - float(draws.members @ too_few(draws, size, least)) / draws.num_classes
