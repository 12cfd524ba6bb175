"""How the batches of an epoch are made up when each has to hold the classes: indices in, indices out, in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def share_out(total: int, counts: Indices, least: int) -> Indices:
    """How often each class is drawn: in proportion to its samples, but at least ``least`` times.

    Args:
        total: Draws altogether, >= ``least`` times the classes.
        counts: Samples of each class, > 0, shape (classes,).
        least: The fewest draws of any class.

    Returns:
        The draws of each class, shape (classes,), which add up to ``total``.

    """
    rare = np.zeros(len(counts), dtype=bool)
    while True:  # what the rare classes take leaves less for the others, which can make one more class rare
        left, samples = total - least * int(rare.sum()), int(counts[~rare].sum())
        too_rare = ~rare & (left * counts < least * samples)
        if not too_rare.any():
            break
        rare |= too_rare
    draws = np.where(rare, least, left * counts // max(1, samples))
    # Largest remainders first; `stable` so that equal ones are served in the order of the classes.
    remainders = np.where(rare, -1, left * counts % max(1, samples))
    draws[np.argsort(-remainders, kind="stable")[: int(total - draws.sum())]] += 1
    return draws


def in_turn(members: Indices, draws: int, start: int, rng: np.random.Generator) -> Indices:
    """So many draws, in random order, such that any ``len(members)`` that follow one another are different.

    Each comes equally often; those that come once more are the ones from place ``start`` on, so that a caller who goes
    on where the last epoch ended uses all of them equally often over the epochs.
    """
    once_more = (start + np.arange(draws % len(members))) % len(members)
    others = np.delete(members, once_more)
    order = np.concatenate([rng.permutation(members[once_more]), rng.permutation(others)])
    return order[np.arange(draws) % len(members)]


def every_class(
    members: Sequence[Indices], num_batches: int, batch_size: int, least: int, seed: int, epoch: int
) -> Indices:
    """Batches that hold every class at least ``least`` times, shape (num_batches, batch_size).

    What is left of a batch is filled from a shuffled pool that gives each class its share of the epoch.
    """
    rng = _rng(seed, epoch)
    classes = np.arange(len(members))
    counts = np.array([len(own) for own in members], dtype=np.int64)
    draws = share_out(num_batches * batch_size, counts, num_batches * least)
    fixed = np.tile(np.repeat(classes, least), (num_batches, 1))
    pool = rng.permutation(np.repeat(classes, draws - num_batches * least))
    rows = np.hstack([fixed, pool.reshape(num_batches, batch_size - fixed.shape[1])])
    return _fill(rows, members, epoch * draws, rng)


def some_classes(
    members: Sequence[Indices], num_batches: int, batch_size: int, classes_per_batch: int, seed: int, epoch: int
) -> Indices:
    """Batches of ``classes_per_batch`` classes, equally often each, shape (num_batches, batch_size).

    The classes come in turn: none comes again before all others have come.
    """
    rng = _rng(seed, epoch)
    turns = num_batches * classes_per_batch
    classes = in_turn(np.arange(len(members)), turns, epoch * turns, rng).reshape(num_batches, classes_per_batch)
    times = np.full(classes_per_batch, batch_size // classes_per_batch)
    times[: batch_size % classes_per_batch] += 1
    rows = np.repeat(classes, times, axis=1)
    drawn_so_far = epoch * num_batches * batch_size // len(members)
    return _fill(rows, members, np.full(len(members), drawn_so_far), rng)


def _rng(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, 1 + epoch])  # [seed] alone is the order that never changes


def _fill(rows: Indices, members: Sequence[Indices], starts: Indices, rng: np.random.Generator) -> Indices:
    """The samples for these classes: each class hands out its own in turn, batch after batch."""
    places = np.argsort(rows, axis=None, kind="stable")
    draws = np.bincount(rows.ravel(), minlength=len(members))
    drawn = [
        in_turn(own, int(times), int(start), rng) for own, times, start in zip(members, draws, starts, strict=True)
    ]
    filled = np.empty(rows.size, dtype=np.int64)
    filled[places] = np.concatenate(drawn)
    return rng.permuted(filled.reshape(rows.shape), axis=1)
