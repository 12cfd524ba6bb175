"""A batch sampler whose batches contain every class with certainty."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, Sampler
from typing_extensions import override

from lightning_hp.data.balanced_epoch import every_class, some_classes
from lightning_hp.data.classes import ClassLabels, UnknownClasses, as_array, read_classes
from lightning_hp.data.labels import find_labels
from lightning_hp.functional.checks import check_bool, check_int, wrong_type

_LABELS = "one label for each sample, or a dataset that carries them"
_NO_LABELS = (str, bytes, set, frozenset, type, DataLoader)
_MAX_EPOCH = 2**31 - 1  # an epoch times its draws is an int64


class ClassBalancedBatchSampler(Sampler[list[int]]):
    """Makes batches that contain every class at least ``min_per_class`` times: a guarantee, not a probability.

    The rest of a batch is filled at random from all classes. A class is drawn in proportion to its number of samples,
    as in an ordinary shuffled epoch, and more often only if it is too rare for the guarantee.

    An epoch has as many batches as an ordinary one, N / (batch_size * ranks), and every batch is full: with
    ``drop_last=False`` the last batch is filled with samples that occur a second time. If each class has at least
    ``min_per_class`` samples for every batch, each sample occurs once in an epoch. Otherwise the samples of a class
    that is too rare are repeated, all equally often. The samples of the other classes then occur less than once in an
    epoch, and equally often over the epochs. A batch (under DDP: a step of all ranks) contains the same sample twice
    only if it needs more samples of a class than there are.

    The order depends only on ``(seed, epoch)``. Lightning sets the epoch. Without Lightning each pass is a new epoch,
    and a training loop that resumes calls :meth:`set_epoch`.

    Args:
        labels: The class of each sample, integers >= 0 or names, shape (samples,); or rows of zeros and ones with a
            single one, shape (samples, classes); or a dataset that carries its labels.
        batch_size: Number of samples of a batch on one process, >= ``min_per_class`` times the number of classes. It
            can be assigned later.
        min_per_class: The smallest number of samples of each class in a batch, >= 1.
        classes_per_batch: ``None``: every batch contains all classes. Otherwise the number of classes in a batch: no
            class is used again before all others have been used, so that all classes, not all samples, are equally
            frequent, and each class of a batch has the same number of samples.
        drop_last: Whether to leave out the last batch if it is not full, instead of filling it.
        seed: Seed of the order, >= 0, the same on all ranks.
        num_replicas: Number of ranks that share an epoch, >= 1. ``None``: what torch.distributed says when an epoch
            starts.
        rank: Rank of this process, from 0 to ``num_replicas`` - 1. Needs ``num_replicas``.

    Attributes:
        classes: The name of each class in ``labels``.
        epoch: The next epoch.

    Raises:
        TypeError: If an argument is of the wrong type. Also if Lightning passes a sampler of its own instead of
            ``labels``; the message says how to switch that off.
        ValueError: If an argument is out of range, the classes do not fit into a batch, an epoch has no batch, or a
            sample has no class.

    Note:
        Under DDP the sampler divides the epoch between the ranks itself. Pass it to the loader,
        ``use_distributed_sampler=False`` to the Trainer, and a ``DistributedSampler`` to the validation loaders. All
        ranks have the same number of batches.

        An epoch takes 1 ms for 10 000 samples and 0.2 s for the 1.3 million samples of ImageNet, and 8 bytes per
        sample. A class with one or two samples is not helped: every batch contains these samples, so the model
        memorizes them.

    References:
        Hermans, Beyer and Leibe, *In Defense of the Triplet Loss for Person Re-Identification*, 2017: batches of P
        classes with K samples each. This sampler extends them to all classes at once, to ranks and to epochs.

    Example:
        >>> labels = [0] * 90 + [1] * 6 + [2] * 4
        >>> sampler = ClassBalancedBatchSampler(labels, batch_size=10, min_per_class=2)
        >>> [sorted(labels[i] for i in batch).count(2) >= 2 for batch in sampler] == [True] * len(sampler)
        True

    """

    def __init__(
        self,
        labels: Any,
        batch_size: int,
        min_per_class: int = 2,
        *,
        classes_per_batch: int | None = None,
        drop_last: bool = False,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        _check_labels(labels)
        check_int("batch_size", batch_size, 1)
        self.min_per_class = check_int("min_per_class", min_per_class, 1)
        if classes_per_batch is not None:
            classes_per_batch = check_int("classes_per_batch", classes_per_batch, 1, also="None")
        self.classes_per_batch = classes_per_batch
        self.drop_last = check_bool("drop_last", drop_last)
        self.seed = check_int("seed", seed, 0)
        self._ranks = _check_ranks(num_replicas, rank)
        self.epoch = 0
        found = _classes_of(labels)
        self.classes = found.classes
        if self.classes_per_batch is not None and self.classes_per_batch > len(self.classes):
            raise ValueError(
                f"Expected `classes_per_batch` <= {len(self.classes)} classes, but got {self.classes_per_batch}."
            )
        self._num_samples = len(found.codes)
        # The samples of each class, in an order that depends on the seed only: `draw_in_turn` rotates through it.
        order = np.random.default_rng([self.seed]).permutation(self._num_samples)
        by_class = order[np.argsort(found.codes[order], kind="stable")]
        self._members = np.split(by_class, np.cumsum(np.bincount(found.codes))[:-1])
        self.batch_size = batch_size

    @property
    def batch_size(self) -> int:
        """Number of samples of a batch on one process."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, batch_size: int) -> None:
        batch_size = check_int("batch_size", batch_size, 1)
        if batch_size < self.least_batch_size:
            classes = self.least_batch_size // self.min_per_class
            raise ValueError(
                f"Expected `batch_size` >= {self.least_batch_size}, {self.min_per_class} samples of each of {classes} "
                f"classes, but got {batch_size}. Lower `min_per_class`, or set `classes_per_batch` to at most "
                f"{batch_size // self.min_per_class}, so that a batch contains only some of the classes."
            )
        self._batch_size = batch_size

    @property
    def least_batch_size(self) -> int:
        """The smallest possible batch size: ``min_per_class`` samples of each class of a batch."""
        return self.min_per_class * (self.classes_per_batch or len(self.classes))

    @property
    def sampler(self) -> ClassBalancedBatchSampler:
        """This object. Lightning sets the epoch on the sampler of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next pass.

        Args:
            epoch: Number of the epoch, >= 0.

        """
        self.epoch = check_int("epoch", epoch, 0, _MAX_EPOCH)

    def __len__(self) -> int:
        """Number of batches of an epoch on one process."""
        step_size = self.batch_size * self._current_ranks()[0]
        batches = self._num_samples // step_size if self.drop_last else -(-self._num_samples // step_size)
        if not batches:
            raise ValueError(
                f"Expected at most the {self._num_samples} samples of an epoch in one step, but batch_size times ranks "
                f"is {step_size}, and with drop_last=True no batch is left. Lower `batch_size`, or pass "
                "drop_last=False."
            )
        return batches

    @override
    def __iter__(self) -> Iterator[list[int]]:
        # This is a generator: the epoch advances when the first batch is requested, not when the iterator is made.
        epoch, self.epoch = self.epoch, self.epoch + 1
        ranks, rank = self._current_ranks()
        shape = len(self) * ranks, self.batch_size
        if self.classes_per_batch is None:
            batches = every_class(self._members, *shape, self.min_per_class, self.seed, epoch)
        else:
            batches = some_classes(self._members, *shape, self.classes_per_batch, self.seed, epoch)
        # Consecutive batches go to different ranks, so the samples of one step differ as far as possible.
        for batch in batches[rank::ranks]:
            yield batch.tolist()

    def _current_ranks(self) -> tuple[int, int]:
        """Number of ranks, and the rank of this process."""
        if self._ranks is not None:
            return self._ranks
        if dist.is_available() and dist.is_initialized():
            return dist.get_world_size(), dist.get_rank()
        return 1, 0


def _check_ranks(num_replicas: Any, rank: Any) -> tuple[int, int] | None:
    if num_replicas is None and rank is None:
        return None
    if num_replicas is not None and rank is not None:
        num_replicas, rank = check_int("num_replicas", num_replicas, 1), check_int("rank", rank, minimum=0)
        if rank < num_replicas:
            return num_replicas, rank
    raise ValueError(f"Expected 0 <= `rank` < `num_replicas`, or neither, but got {rank!r} and {num_replicas!r}.")


def _check_labels(labels: Any) -> None:
    if isinstance(labels, Sampler):
        raise TypeError(
            f"Expected `labels` or a dataset, but got a {type(labels).__name__}. Lightning passes it to divide the "
            "epoch between the ranks (or to predict), and ClassBalancedBatchSampler does that itself: use "
            "Trainer(use_distributed_sampler=False), with a DistributedSampler for the validation loaders, and "
            "another loader to predict."
        )
    is_collection = hasattr(labels, "__getitem__") or hasattr(labels, "__iter__")
    is_scalar = getattr(labels, "ndim", 1) == 0
    is_meta = getattr(labels, "is_meta", False)  # a tensor without data
    if not is_collection or is_scalar or is_meta or isinstance(labels, _NO_LABELS):
        wrong_type("labels", _LABELS, labels)


def _classes_of(labels: Any) -> ClassLabels:
    """The classes that occur, and the class of each sample."""
    is_dataset = isinstance(labels, Dataset) or (
        isinstance(labels, list) and bool(labels) and isinstance(labels[0], (tuple, dict))
    )
    values = None if is_dataset else as_array(labels)
    if values is None:
        found = find_labels(labels)
        if isinstance(found, UnknownClasses):
            raise ValueError(f"Expected `labels` to be {_LABELS}. {found.reason}")
        values = found.values
    classes = read_classes(values, are_classes=True)
    if isinstance(classes, UnknownClasses):
        raise ValueError(f"Expected `labels` to be classes. {classes.reason}")
    if not classes.single_label or classes.num_excluded:
        got = f"{classes.num_excluded} negative labels" if classes.single_label else "several labels for a sample"
        raise ValueError(
            f"Expected `labels` to be one class >= 0 for each sample, but got {got}. Leave these samples out."
        )
    # One-hot rows may have a column for a class without samples.
    occurring, codes = np.unique(classes.codes, return_inverse=True)
    return ClassLabels(tuple(classes.classes[code] for code in occurring), codes)
