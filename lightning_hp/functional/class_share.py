"""How large a share of the classes a batch holds often enough, and what each of them has on average."""

from __future__ import annotations

import math

from numpy.typing import ArrayLike

from lightning_hp.functional.checks import check_probability, check_whole
from lightning_hp.functional.class_draws import (
    Draws,
    can_have,
    check_batch,
    check_draws,
    smallest_batch,
    too_few,
)


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
