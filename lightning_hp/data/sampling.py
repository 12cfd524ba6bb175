"""How a loader draws samples: how often each of them, and whether the probabilities of random batches apply to it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_hp.data.balanced_sampler import ClassBalancedBatchSampler
from lightning_hp.data.classes import Array


class Sampling(NamedTuple):
    """How batches are drawn.

    Attributes:
        name: The sampler, as text.
        weights: Relative frequency of each sample, shape (samples,); ``None`` if all are drawn equally often.
        replacement: Whether each sample of a batch is drawn independently from all samples (i.i.d.).
        obstacle: Why the probabilities of random batches do not apply, as a sentence; ``None`` if they do.
        guaranteed: How many samples of each class every batch contains with certainty.
    """

    name: str
    weights: Array | None = None
    replacement: bool = False
    obstacle: str | None = None
    guaranteed: int = 0


def read_sampling(loader: DataLoader[Any], size: int) -> Sampling:
    """How a loader draws batches.

    Args:
        loader: The loader.
        size: Number of samples of its dataset.

    """
    batch_sampler: Any = loader.batch_sampler
    if isinstance(batch_sampler, ClassBalancedBatchSampler):
        return _class_balanced(batch_sampler)
    if batch_sampler is None:
        return Sampling("no batch sampler", obstacle="The dataset makes its batches itself (`batch_size=None`).")
    if not _draws_like(batch_sampler, BatchSampler):
        name = type(batch_sampler).__name__
        return Sampling(name, obstacle=f"{name} makes up the batches in a way that is not known here.")
    # Not `loader.sampler`: a loader that was given a batch sampler has a SequentialSampler there.
    return _read_sampler(batch_sampler.sampler, size)


def _read_sampler(sampler: Any, size: int) -> Sampling:
    name = type(sampler).__name__
    if _draws_like(sampler, SequentialSampler):
        return Sampling(name, obstacle="The loader does not shuffle, so the order of the dataset makes up the batches.")
    if _draws_like(sampler, RandomSampler):
        return Sampling(f"{name}(replacement={sampler.replacement})", replacement=sampler.replacement)
    if _draws_like(sampler, SubsetRandomSampler):
        weights = np.bincount(np.asarray(sampler.indices, dtype=np.int64), minlength=size)
        return Sampling(f"{name} of {len(sampler.indices)} samples", weights)
    if _draws_like(sampler, WeightedRandomSampler):
        return _weighted(sampler, size)
    if _draws_like(sampler, DistributedSampler):
        # Every rank's part of a shuffled epoch is a random draw from the whole dataset.
        obstacle = None if sampler.shuffle else "The DistributedSampler does not shuffle."
        return Sampling(f"{name} over {sampler.num_replicas} ranks", obstacle=obstacle)
    return Sampling(name, obstacle=f"{name} draws in a way that is not known here.")


def _weighted(sampler: WeightedRandomSampler, size: int) -> Sampling:
    name = f"WeightedRandomSampler(replacement={sampler.replacement})"
    weights = np.zeros(size)
    given = sampler.weights.numpy()[:size]
    weights[: len(given)] = given
    if sampler.replacement:
        return Sampling(name, weights, replacement=True)
    # Each sample is drawn once; the weights only determine how early.
    return Sampling(
        name,
        (weights > 0).astype(np.float64),
        obstacle=(
            "WeightedRandomSampler(replacement=False) draws samples with large weights first, so the batches change "
            "during an epoch."
        ),
    )


def _class_balanced(batch_sampler: ClassBalancedBatchSampler) -> Sampling:
    name = type(batch_sampler).__name__
    if batch_sampler.classes_per_batch is not None:
        num_classes = batch_sampler.classes_per_batch
        obstacle = f"{name} makes batches that contain {num_classes} classes, in turn, not all of them."
        return Sampling(name, obstacle=obstacle)
    guaranteed = batch_sampler.min_per_class
    obstacle = f"{name} makes batches that contain every class {guaranteed} times or more, with certainty."
    return Sampling(name, obstacle=obstacle, guaranteed=guaranteed)


def _draws_like(sampler: Any, kind: Any) -> bool:
    """Whether a sampler is a ``kind`` of torch and draws as that does: its class may override ``__iter__``.

    The samplers of torchdata draw like those of torch with the same name.
    """
    own = type(sampler)
    if own.__module__.startswith("torchdata."):
        return bool(own.__name__.removeprefix("Stateful") == kind.__name__)
    return isinstance(sampler, kind) and own.__iter__ is kind.__iter__
