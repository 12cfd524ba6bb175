"""How often each class occurs in a training set, and in what a loader draws from it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch.utils.data import DataLoader

from lightning_hp.data.carried_labels import Labels
from lightning_hp.data.classes import Array, ClassLabels, UnknownClasses, as_array, read_classes
from lightning_hp.data.labels import find_labels, num_samples, read_labels
from lightning_hp.data.samples import LabelLocation
from lightning_hp.data.sampling import Sampling, read_sampling
from lightning_hp.functional.checks import check_bool, check_int, check_number, wrong_type

_INT64 = np.iinfo(np.int64)


@dataclass(frozen=True)
class ClassCounts:
    """The classes of a training set. It holds no reference to the dataset.

    Attributes:
        counts: Number of samples of each class, shape (classes,). Under a weighted sampler the sum of their weights:
            then only ratios have a meaning.
        classes: The name of each class in the dataset, in the same order.
        source: Where the labels come from, as text.
        sampling: How the loader draws, as text.
        replacement: Whether it draws with replacement; an argument of
            :func:`~lightning_hp.functional.coverage_probability`.
        guaranteed: How many samples of each class every batch contains with certainty; 0 without a batch sampler for
            that.
        no_coverage: Why the probability that a batch covers all classes cannot be computed from these counts, as a
            sentence; ``None`` if it can.
        excluded: Number of samples that are not counted, because their label is negative or `ignore_index`.

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
        """Classes without a sample; no batch can contain them."""
        return tuple(name for name, count in zip(self.classes, self.counts, strict=True) if count == 0)

    @property
    def present(self) -> Array:
        """The counts of the classes that have samples."""
        return self.counts[self.counts > 0]

    def __str__(self) -> str:
        sentences = [f"{len(self.classes)} classes from {self.source}, drawn by {self.sampling}."]
        if self.empty:
            names = ", ".join(map(str, self.empty[:5])) + (", ..." if len(self.empty) > 5 else "")
            sentences.append(f"{len(self.empty)} of them never occur, so no batch can contain them: {names}.")
        if self.excluded:
            sentences.append(
                f"{self.excluded} samples are left out: their label is negative or means that there is no class."
            )
        if self.no_coverage:
            sentences.append(self.no_coverage)
        return " ".join(sentences)


def class_counts(
    data: Any,
    num_classes: int | None = None,
    *,
    labels: ArrayLike | None = None,
    label: LabelLocation = None,
    allow_pass: bool = False,
    max_items: int = 100_000,
    max_seconds: float = 60.0,
    ignore_index: int = -100,
) -> ClassCounts | UnknownClasses:
    """How often each class occurs in the training data, from the labels that the dataset carries.

    The labels are searched for in the attributes, columns and tensors of torchvision, torch and Hugging Face datasets,
    through ``Subset``, ``random_split`` and ``ConcatDataset``, and compared with eight samples. If there are none,
    ``allow_pass`` allows to read all samples. Without it, ``num_classes`` equally frequent classes are assumed. The
    sampler of a loader is taken into account.

    Args:
        data: A ``DataLoader`` or a map-style dataset. A dataset alone is taken to be shuffled every epoch.
        num_classes: Number of classes of the model, >= 1; the labels are then 0 to num_classes - 1. ``None``: the
            classes that occur.
        labels: One label for each sample of the dataset, instead of searching for them.
        label: Where the label of a sample is: a position, a key or a function from the sample to its label. ``None``:
            position 1 of a tuple, or a key such as ``"label"``.
        allow_pass: Whether all samples may be read, with their transforms, if the dataset carries no labels.
        max_items: The largest number of samples for such a pass, >= 0.
        max_seconds: The longest duration of such a pass, in seconds, >= 0.
        ignore_index: A label that means "no class", in addition to all negative labels.

    Returns:
        The counts, or the reason why there are none.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of range, a label does not fit `num_classes`, or `labels` does not fit the
            dataset.
        LookupError: In a pass, if a sample has no label at ``label``.

    Note:
        Reads eight samples and looks at each label once. Reading has no side effects: all random states, and what the
        dataset stores in itself, are restored. Labels that only a collate function makes are not found.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> data = TensorDataset(torch.rand(60, 2), torch.arange(60) % 6 // 2)
        >>> print(class_counts(DataLoader(data, batch_size=9, shuffle=True)))
        3 classes from TensorDataset.tensors[1], drawn by RandomSampler(replacement=False).

    """
    if num_classes is not None:
        num_classes = check_int("num_classes", num_classes, 1, also="None")
    if not isinstance(label, Hashable):
        wrong_type("label", "a position, a key, a function or None", label)
    check_bool("allow_pass", allow_pass)
    max_items = check_int("max_items", max_items, 0)
    max_seconds = check_number("max_seconds", max_seconds, minimum=0, finite=False)
    ignore_index = check_int("ignore_index", ignore_index, int(_INT64.min), int(_INT64.max))

    is_loader = isinstance(data, DataLoader)
    dataset = data.dataset if is_loader else data
    found = _given_labels(labels, dataset) if labels is not None else find_labels(dataset, label)
    if isinstance(found, UnknownClasses) and allow_pass:
        found = read_labels(dataset, location=label, max_items=max_items, max_seconds=max_seconds)
    if isinstance(found, UnknownClasses):
        return found if num_classes is None else _equally_frequent(num_classes, found)
    sampling = read_sampling(data, len(found.values)) if is_loader else Sampling("a shuffled epoch")
    classes = read_classes(found.values, num_classes, ignore_index)
    return _count(classes, found.source, sampling) if isinstance(classes, ClassLabels) else classes


def _count(labels: ClassLabels, source: str, sampling: Sampling) -> ClassCounts:
    several = "A sample may have several labels, so that classes are not drawn one by one."
    weights = sampling.weights
    drawn = labels.codes if weights is None or not labels.single_label else labels.codes[weights > 0]
    return ClassCounts(
        counts=labels.per_class(weights),
        classes=labels.classes,
        source=source,
        sampling=sampling.name,
        replacement=sampling.replacement,
        guaranteed=sampling.guaranteed,
        no_coverage=sampling.obstacle if labels.single_label else several,
        excluded=int((drawn < 0).sum()),
    )


def _equally_frequent(num_classes: int, unknown: UnknownClasses) -> ClassCounts:
    return ClassCounts(
        counts=np.ones(num_classes, dtype=np.int64),
        classes=tuple(range(num_classes)),
        source=f"num_classes alone, taken to be equally frequent ({unknown.reason})",
        sampling="random draws",
        replacement=True,
    )


def _given_labels(labels: ArrayLike, dataset: Any) -> Labels:
    size = num_samples(dataset)
    if isinstance(size, UnknownClasses):
        wrong_type("data", "a dataset with a length, or a loader of one, for `labels`", dataset)
    expected = f"one for each of the {size} samples"
    values = as_array(labels)
    if values is None:
        wrong_type("labels", expected, labels)
    if len(values) != size:
        raise ValueError(f"Expected `labels` to be {expected}, but got {len(values)} labels.")
    return Labels(values, "the labels that were passed")
