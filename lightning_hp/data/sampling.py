"""How a loader draws: which samples, how often, and whether the maths of random batches holds for it."""

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
        name: In words.
        weights: How likely each sample is, shape (samples,), or ``None`` if all are alike.
        replacement: Whether each sample of a batch is drawn from all of them (i.i.d.).
        obstacle: Why the maths of random batches does not hold, as a sentence, or ``None``.
        guaranteed: How often every class is in every batch for certain.
    """

    name: str
    weights: Array | None = None
    replacement: bool = False
    obstacle: str | None = None
    guaranteed: int = 0


def read_sampling(loader: DataLoader[Any], size: int) -> Sampling:
    """How ``loader`` draws batches from a dataset of ``size`` samples."""
    batches: Any = loader.batch_sampler
    if isinstance(batches, ClassBalancedBatchSampler):
        return _arranged(batches)
    if batches is None:
        return Sampling("no batch sampler", obstacle="The dataset makes its batches itself (`batch_size=None`).")
    if not _is(batches, BatchSampler):
        name = type(batches).__name__
        return Sampling(name, obstacle=f"{name} makes up the batches in a way that is not known here.")
    # A batch sampler has its own sampler, which is not always the one that the loader shows.
    return _read_sampler(batches.sampler, size)


def _read_sampler(sampler: Any, size: int) -> Sampling:
    name = type(sampler).__name__
    if _is(sampler, SequentialSampler):
        return Sampling(name, obstacle="The loader does not shuffle, so the order of the dataset makes up the batches.")
    if _is(sampler, RandomSampler):
        return Sampling(f"{name}(replacement={sampler.replacement})", replacement=sampler.replacement)
    if _is(sampler, SubsetRandomSampler):
        weights = np.bincount(np.asarray(sampler.indices, dtype=np.int64), minlength=size)
        return Sampling(f"{name} of {len(sampler.indices)} samples", weights)
    if _is(sampler, WeightedRandomSampler):
        return _weighted(sampler, size)
    if _is(sampler, DistributedSampler):
        # A rank's share of a shuffled epoch is drawn from the whole dataset, and so is a batch of it.
        obstacle = None if sampler.shuffle else "The DistributedSampler does not shuffle."
        return Sampling(f"{name} over {sampler.num_replicas} ranks", obstacle=obstacle)
    return Sampling(name, obstacle=f"{name} draws in a way that is not known here.")


def _weighted(sampler: WeightedRandomSampler, size: int) -> Sampling:
    weights = np.zeros(size)
    own = sampler.weights.numpy()[:size]
    weights[: len(own)] = own
    obstacle = None
    if not sampler.replacement:
        weights = (weights > 0).astype(np.float64)  # each once; the weights say only how early
        obstacle = "WeightedRandomSampler(replacement=False) draws the heavy samples first: batches change on the way."
    return Sampling(f"WeightedRandomSampler(replacement={sampler.replacement})", weights, sampler.replacement, obstacle)


def _arranged(batches: ClassBalancedBatchSampler) -> Sampling:
    name = type(batches).__name__
    if batches.classes_per_batch is not None:
        few = f"{name} puts {batches.classes_per_batch} classes into a batch, in turn, not all of them."
        return Sampling(name, obstacle=few)
    sure = f"{name} puts every class into every batch {batches.min_per_class} times or more, for certain."
    return Sampling(name, obstacle=sure, guaranteed=batches.min_per_class)


def _is(sampler: Any, kind: Any) -> bool:
    """Of that kind, drawing as torch does: a subclass of the user's may draw as it likes. torchdata's draw alike."""
    own = type(sampler)
    if own.__module__.startswith("torchdata."):
        return bool(own.__name__.removeprefix("Stateful") == kind.__name__)
    return isinstance(sampler, kind) and own.__iter__ is kind.__iter__
