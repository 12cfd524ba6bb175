"""How surely a batch holds every class often enough, and the smallest batch that does."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from lightning_hp.functional.class_draws import Draws, check_draws, check_whole, too_few
from lightning_hp.functional.class_levin import log_coverage


def class_coverage(
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
        >>> f"{class_coverage(30, 10, min_per_class=2):.3f}"  # 3 of each on average
        '0.069'
        >>> f"{class_coverage(30, [20] * 10, min_per_class=2, replacement=False):.3f}"
        '0.106'

    """
    draws, size, least = _check_batch(batch_size, class_counts, min_per_class, replacement)
    return _coverage(draws, size, least) if exact else _at_least(draws, size, least)


def batch_size_for_coverage(
    coverage: float, class_counts: ArrayLike, min_per_class: int = 1, *, replacement: bool = True, exact: bool = True
) -> int | None:
    """The smallest batch that holds every class at least ``min_per_class`` times with probability ``coverage``.

    Args:
        coverage: The wanted probability, > 0 and < 1.
        class_counts: A number of equally frequent classes, or the samples of each class, shape (classes,).
        min_per_class: How often each class has to come, >= 0.
        replacement: As for :func:`class_coverage`.
        exact: ``False`` for the lower bound, whose batch is at most 1 to 2 % too large at a coverage of 0.95.

    Returns:
        The batch size, >= 1; ``None`` if none will do, because a class has fewer samples than it takes.

    Raises:
        ValueError: If an argument is out of its range.

    Costs some ten evaluations of :func:`class_coverage`. Does not help where it exceeds what fits: then accumulate, or
    draw balanced batches, for which ``min_per_class`` times the classes is enough.

    Source: as :func:`class_coverage`; the bracket is Bonferroni's inequality and the product bound of Joag-Dev and
    Proschan, *Negative Association of Random Variables*, 1983.

    Example:
        >>> [batch_size_for_coverage(0.95, classes, min_per_class=3) for classes in (5, 10, 100)]
        [39, 89, 1198]

    """
    draws = check_draws(class_counts, replacement)
    least = check_whole("min_per_class", min_per_class, least=0)
    _check_probability("coverage", coverage)
    if least > 0 and draws.sizes[0] < (1 if replacement else least):
        return None
    floor = max(1, least * draws.num_classes)
    high = _rising(floor, draws, lambda size: _at_least(draws, size, least) >= coverage)
    if not exact:
        return high
    # The exact probability lies between a lower and an upper bound that are close, so the batch is bracketed.
    low = _smallest(floor, high, lambda size: _at_most(draws, size, least) >= coverage)
    return _smallest(low, high, lambda size: _coverage(draws, size, least) >= coverage)


def class_share(batch_size: int, class_counts: ArrayLike, min_per_class: int = 1, *, replacement: bool = True) -> float:
    """The share of the classes that come at least ``min_per_class`` times in a batch, on average.

    Args:
        batch_size: Samples in the batch, >= 0.
        class_counts: A number of equally frequent classes, or the samples of each class, shape (classes,).
        min_per_class: How often a class has to come, >= 0.
        replacement: As for :func:`class_coverage`.

    Returns:
        The expected share, in [0, 1].

    Raises:
        ValueError: If an argument is out of its range, or the batch is larger than an epoch without replacement.

    Costs under a millisecond, or some for 1000 classes of different sizes. Does not help a loss that needs every class:
    with a hundred classes a share of 0.99 leaves one of them out in the typical batch.

    Source: the binomial and the hypergeometric distribution.

    Example:
        >>> f"{class_share(3 * 35, 35, min_per_class=2):.2f}"  # 3 of each on average
        '0.80'

    """
    draws, size, least = _check_batch(batch_size, class_counts, min_per_class, replacement)
    return _share(draws, size, least)


def batch_size_for_share(
    share: float, class_counts: ArrayLike, min_per_class: int = 1, *, replacement: bool = True
) -> int | None:
    """The smallest batch in which that share of the classes comes at least ``min_per_class`` times, on average.

    Args:
        share: The wanted share, > 0 and < 1.
        class_counts: A number of equally frequent classes, or the samples of each class, shape (classes,).
        min_per_class: How often a class has to come, >= 0.
        replacement: As for :func:`class_coverage`.

    Returns:
        The batch size, >= 1; ``None`` if none will do, because too many classes have fewer samples than it takes.

    Raises:
        ValueError: If an argument is out of its range.

    Costs some ten evaluations of :func:`class_share`. Does not help as :func:`class_share` does not; it is what remains
    within reach for many classes, where the batch for all of them grows by a logarithm more.

    Source: as :func:`class_share`.

    Example:
        >>> [batch_size_for_share(0.95, classes, min_per_class=3) for classes in (10, 1000)]
        [61, 6294]

    """
    draws = check_draws(class_counts, replacement)
    least = check_whole("min_per_class", min_per_class, least=0)
    _check_probability("share", share)
    reachable = draws.members[draws.sizes >= (min(least, 1) if replacement else least)].sum() / draws.num_classes
    if reachable < share:
        return None
    return _rising(1, draws, lambda size: _share(draws, size, least) >= share)


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
    every one in 7 of 100 draws. :func:`class_coverage` says how often.

    Source: a rule of thumb of practice, for balanced classes.

    Example:
        >>> batch_size_for_average(5, 3), batch_size_for_average([100, 300], 3)
        (15, 12)

    """
    draws = check_draws(class_counts, replacement=True)
    least = check_whole("min_per_class", min_per_class, least=0)
    if draws.sizes[0] == 0:
        raise ValueError("Expected `class_counts` > 0, since a class without samples is in no batch, but got a 0.")
    return max(1, math.ceil(least * draws.total / draws.sizes[0]))


def _check_batch(
    batch_size: int, class_counts: ArrayLike, min_per_class: int, replacement: bool
) -> tuple[Draws, int, int]:
    draws = check_draws(class_counts, replacement)
    size = check_whole("batch_size", batch_size, least=0)
    if not replacement and size > draws.total:
        raise ValueError(f"Expected `batch_size` <= {draws.total:.0f}, the samples there are, but got {batch_size!r}.")
    return draws, size, check_whole("min_per_class", min_per_class, least=0)


def _check_probability(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"Expected `{name}` to be > 0 and < 1, but got {value!r}.")


def _coverage(draws: Draws, size: int, least: int) -> float:
    if least == 0:
        return 1.0
    if size < least * draws.num_classes or draws.sizes[0] < (1 if draws.replacement else least):
        return 0.0
    if draws.num_classes == 1 or (not draws.replacement and size == draws.total):
        return 1.0
    return min(1.0, math.exp(log_coverage(draws, size, least)))


def _at_least(draws: Draws, size: int, least: int) -> float:
    """Bonferroni: the chances that a class comes too rarely add up at worst."""
    return max(0.0, 1 - float(draws.members @ too_few(draws, size, least)))


def _at_most(draws: Draws, size: int, least: int) -> float:
    """The product over the classes: a batch full of one class has less room for the others."""
    return float(np.prod((1 - too_few(draws, size, least)) ** draws.members))


def _share(draws: Draws, size: int, least: int) -> float:
    return 1 - float(draws.members @ too_few(draws, size, least)) / draws.num_classes


def _rising(floor: int, draws: Draws, enough: Callable[[int], bool]) -> int:
    """The smallest batch from ``floor`` on that is enough, where a larger one always is and an epoch is at the end."""
    most = math.inf if draws.replacement else draws.total
    low, high = floor, floor
    while high < most and not enough(high):
        low, high = high + 1, 2 * high
    return _smallest(low, int(min(high, most)), enough)


def _smallest(low: int, high: int, enough: Callable[[int], bool]) -> int:
    """The smallest batch from ``low`` to ``high`` that is enough, where ``high`` is known to be."""
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return low
