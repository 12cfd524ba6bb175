"""The batches of an epoch in which every batch contains several samples of each class.

The batches of P classes with K samples each (Hermans, Beyer and Leibe, *In Defense of the Triplet Loss for Person
Re-Identification*, 2017), extended to all classes at once and to an epoch that uses every sample::

    # every_class: P is the number of classes, K is min_per_class, n[c] the number of samples of class c
    draws[c] = max(K * num_batches, n[c] * rate)     # the rate makes the sum num_batches * batch_size
    pool     = shuffle(class c repeated draws[c] - K * num_batches times, for each c)
    batch[b] = each class K times + the next batch_size - P * K classes of the pool
    replace each class c in the batches, in order, by the next sample of c in a random order without repetition

    # some_classes: P is classes_per_batch
    batch[b] = the next P classes in a random order without repetition, batch_size / P times each
    replace each class by samples as above

"Without repetition" holds across epochs: an epoch continues where the previous one ended. All functions take and return
indices in NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def draws_per_class(total: int, counts: Indices, minimum: int) -> Indices:
    """How often each class is drawn: proportional to its number of samples, but at least ``minimum`` times.

    Args:
        total: Number of draws, >= ``minimum`` times the number of classes.
        counts: Number of samples of each class, > 0, shape (classes,).
        minimum: The smallest number of draws of a class, >= 0.

    Returns:
        Number of draws of each class, shape (classes,); the sum is ``total``.

    Example:
        >>> draws_per_class(100, np.array([90, 6, 4]), minimum=10).tolist()
        [80, 10, 10]

    """
    rare = np.zeros(len(counts), dtype=bool)
    while True:  # the draws that rare classes get are missing for the others, so that more classes can become rare
        rest, samples = total - minimum * int(rare.sum()), int(counts[~rare].sum())
        newly_rare = ~rare & (rest * counts < minimum * samples)
        if not newly_rare.any():
            break
        rare |= newly_rare
    draws = np.where(rare, minimum, rest * counts // max(1, samples))
    # The largest remainders are rounded up; `stable` decides ties by the order of the classes.
    remainders = np.where(rare, -1, rest * counts % max(1, samples))
    draws[np.argsort(-remainders, kind="stable")[: int(total - draws.sum())]] += 1
    return draws


def draw_in_turn(members: Indices, draws: int, start: int, rng: np.random.Generator) -> Indices:
    """Draws in random order, such that any ``len(members)`` consecutive draws are different.

    Args:
        members: What is drawn from, all different.
        draws: Number of draws.
        start: Number of draws in earlier epochs. Every member is drawn equally often; where ``draws`` is no multiple of
            their number, the members from ``start`` on (modulo their number) are drawn once more, so that over the
            epochs all are drawn equally often.
        rng: The random generator.

    Returns:
        The draws, shape (draws,).

    """
    extra = (start + np.arange(draws % len(members))) % len(members)
    others = np.delete(members, extra)
    order = np.concatenate([rng.permutation(members[extra]), rng.permutation(others)])
    return order[np.arange(draws) % len(members)]


def every_class(
    members: Sequence[Indices], num_batches: int, batch_size: int, min_per_class: int, seed: int, epoch: int
) -> Indices:
    """Batches that contain every class at least ``min_per_class`` times.

    The rest of a batch comes from a shuffled pool that contains each class in proportion to its draws.

    Args:
        members: The samples of each class.
        num_batches: Number of batches of the epoch.
        batch_size: Number of samples of a batch, >= ``min_per_class`` times the number of classes.
        min_per_class: The smallest number of samples of a class in a batch.
        seed: Determines the order, together with ``epoch``.
        epoch: Number of the epoch, from 0.

    Returns:
        Indices of samples, shape (num_batches, batch_size).

    """
    rng = _generator(seed, epoch)
    classes = np.arange(len(members))
    counts = np.array([len(own) for own in members], dtype=np.int64)
    draws = draws_per_class(num_batches * batch_size, counts, num_batches * min_per_class)
    fixed = np.tile(np.repeat(classes, min_per_class), (num_batches, 1))
    pool = rng.permutation(np.repeat(classes, draws - num_batches * min_per_class))
    batches = np.hstack([fixed, pool.reshape(num_batches, batch_size - fixed.shape[1])])
    return _replace_by_samples(batches, members, epoch * draws, rng)


def some_classes(
    members: Sequence[Indices], num_batches: int, batch_size: int, classes_per_batch: int, seed: int, epoch: int
) -> Indices:
    """Batches of ``classes_per_batch`` classes with equally many samples each, up to one.

    No class is used again before all others have been used.

    Args:
        members: The samples of each class.
        num_batches: Number of batches of the epoch.
        batch_size: Number of samples of a batch.
        classes_per_batch: Number of classes of a batch.
        seed: Determines the order, together with ``epoch``.
        epoch: Number of the epoch, from 0.

    Returns:
        Indices of samples, shape (num_batches, batch_size).

    """
    rng = _generator(seed, epoch)
    total = num_batches * classes_per_batch
    classes = draw_in_turn(np.arange(len(members)), total, epoch * total, rng).reshape(num_batches, classes_per_batch)
    times = np.full(classes_per_batch, batch_size // classes_per_batch)
    times[: batch_size % classes_per_batch] += 1
    batches = np.repeat(classes, times, axis=1)
    drawn_before = epoch * num_batches * batch_size // len(members)
    return _replace_by_samples(batches, members, np.full(len(members), drawn_before), rng)


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, 1 + epoch])  # ClassBalancedBatchSampler uses [seed] for its fixed order


def _replace_by_samples(
    batches: Indices, members: Sequence[Indices], starts: Indices, rng: np.random.Generator
) -> Indices:
    """Replaces each class by its next sample, batch after batch, and shuffles within each batch.

    Args:
        batches: Classes, shape (num_batches, batch_size).
        members: The samples of each class.
        starts: Number of draws of each class in earlier epochs, shape (classes,).
        rng: The random generator.

    """
    places = np.argsort(batches, axis=None, kind="stable")
    draws = np.bincount(batches.ravel(), minlength=len(members))
    drawn = [
        draw_in_turn(own, int(count), int(start), rng) for own, count, start in zip(members, draws, starts, strict=True)
    ]
    samples = np.empty(batches.size, dtype=np.int64)
    samples[places] = np.concatenate(drawn)
    return rng.permuted(samples.reshape(batches.shape), axis=1)
