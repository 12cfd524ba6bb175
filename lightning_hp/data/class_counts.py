"""How often each class comes in a training dataset, and in what a loader draws from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch.utils.data import DataLoader

from lightning_hp.data.classes import Array, ClassLabels, NoClasses, as_array, read_classes
from lightning_hp.data.labels import FoundLabels, find_labels, labels_by_pass
from lightning_hp.data.samples import Where
from lightning_hp.data.sampling import Sampling, read_sampling
from lightning_hp.functional.checks import check_whole


@dataclass(frozen=True)
class ClassCounts:
    """The classes of a training set.

    Attributes:
        counts: Samples of each class, shape (classes,). Under a weighted sampler the sum of their weights: then only
            the ratios count.
        classes: What each class is called in the dataset, in the same order.
        source: Where the labels came from, in words.
        sampling: How the loader draws, in words.
        replacement: Whether it draws with replacement, as :func:`~lightning_hp.functional.coverage_probability` asks.
        guaranteed: How often every class is in every batch for certain; 0 unless a batch sampler arranges it.
        no_coverage: Why the probability that a batch covers the classes cannot be had from these counts, as a
            sentence, or ``None`` if it can.
        excluded: Samples that were left out, because their label is negative or `ignore_index`.

    Costs nothing. Does not hold the dataset.

    Example:
        >>> found = class_counts([("a", 0), ("b", 1), ("c", 1), ("d", 0), ("e", 1), ("f", -1)], num_classes=3)
        >>> found.counts.tolist(), found.excluded, found.empty
        ([2, 3, 0], 1, (2,))

    """

    counts: Array
    classes: tuple[Any, ...]
    source: str
    sampling: str
    replacement: bool
    guaranteed: int = 0
    no_coverage: str | None = None
    excluded: int = 0

    @property
    def empty(self) -> tuple[Any, ...]:
        """Classes without a sample, which no batch can hold."""
        return tuple(name for name, count in zip(self.classes, self.counts, strict=True) if count == 0)

    @property
    def present(self) -> Array:
        """The counts of the classes that do occur."""
        return self.counts[self.counts > 0]

    def __str__(self) -> str:
        lines = [f"{len(self.classes)} classes from {self.source}, drawn by {self.sampling}."]
        if self.empty:
            names = ", ".join(map(str, self.empty[:5])) + (", ..." if len(self.empty) > 5 else "")
            lines.append(f"{len(self.empty)} of them never come, so no batch can hold them: {names}.")
        if self.excluded:
            lines.append(f"{self.excluded} samples are left out: their label is negative or `ignore_index`.")
        return " ".join([*lines, *([self.no_coverage] if self.no_coverage else [])])


def class_counts(
    data: Any,
    num_classes: int | None = None,
    *,
    labels: ArrayLike | None = None,
    label: Where = None,
    allow_pass: bool = False,
    max_items: int = 100_000,
    max_seconds: float = 60.0,
    ignore_index: int = -100,
) -> ClassCounts | NoClasses:
    """How often each class comes in what is trained on, from the labels that the dataset carries.

    They are looked for in what torchvision, torch and Hugging Face datasets carry, through ``Subset``, ``random_split``
    and ``ConcatDataset``, and compared with eight samples; then, if it is allowed, in a pass over all samples; then
    ``num_classes`` equally frequent ones are assumed. The sampler of a loader is taken into account.

    Args:
        data: A ``DataLoader`` or a map-style dataset; a dataset alone is taken to be shuffled every epoch.
        num_classes: How many classes the model knows, labels 0 to num_classes - 1. ``None`` for those that occur.
        labels: One label for each sample of the dataset, instead of looking for them.
        label: Where the label is in a sample: a position, a key or a function; ``None`` for the second of a tuple, or a
            key such as ``"label"``.
        allow_pass: Whether every sample may be read, transforms included, where nothing carries the labels.
        max_items: The most samples that such a pass may read.
        max_seconds: The longest that it may take, in seconds.
        ignore_index: A label that counts as none, beside all negative ones.

    Returns:
        The counts, or why there are none.

    Raises:
        ValueError: If a label does not fit `num_classes`, or `labels` does not fit the dataset.

    Costs eight samples and one look at the labels. Reading leaves no trace: the random streams, and what the dataset
    keeps in itself, are put back. Does not help for labels that a collate function makes.

    Source: the attributes of the datasets of torchvision and the columns of Hugging Face datasets.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> data = TensorDataset(torch.rand(60, 2), torch.arange(60) % 6 // 2)
        >>> print(class_counts(DataLoader(data, batch_size=9, shuffle=True)))
        3 classes from TensorDataset.tensors[1], drawn by RandomSampler(replacement=False).

    """
    if num_classes is not None:
        num_classes = check_whole("num_classes", num_classes, least=1)
    is_loader = isinstance(data, DataLoader)
    dataset = data.dataset if is_loader else data
    found = _given(labels, dataset) if labels is not None else find_labels(dataset, label)
    if isinstance(found, NoClasses) and allow_pass:
        found = labels_by_pass(dataset, label=label, max_items=max_items, max_seconds=max_seconds)
    if isinstance(found, NoClasses):
        return found if num_classes is None else _equal(num_classes, found)
    sampling = read_sampling(data, len(found.values)) if is_loader else Sampling("a shuffled epoch")
    read = read_classes(found.values, num_classes, ignore_index)
    return _counted(read, found.source, sampling) if isinstance(read, ClassLabels) else read


def _counted(read: ClassLabels, source: str, sampling: Sampling) -> ClassCounts:
    several = None if read.one_each else "A sample may have several labels, so that classes are not drawn one by one."
    weights = sampling.weights
    drawn = read.codes if weights is None or not read.one_each else read.codes[weights > 0]
    return ClassCounts(
        counts=read.per_class(weights),
        classes=read.classes,
        source=source,
        sampling=sampling.name,
        replacement=sampling.replacement,
        guaranteed=sampling.guaranteed,
        no_coverage=several or sampling.obstacle,
        excluded=int((drawn < 0).sum()),
    )


def _equal(num_classes: int, why: NoClasses) -> ClassCounts:
    source = f"num_classes alone, taken to be equally frequent ({why.reason})"
    return ClassCounts(np.ones(num_classes, dtype=np.int64), tuple(range(num_classes)), source, "random draws", True)


def _given(labels: ArrayLike, dataset: Any) -> FoundLabels:
    values = as_array(labels)
    if values is None or len(values) != len(dataset):
        came = "no array of labels" if values is None else f"{len(values)} labels"
        raise ValueError(f"Expected `labels` to be one for each of the {len(dataset)} samples, but got {came}.")
    return FoundLabels(values, "the labels that were passed")
