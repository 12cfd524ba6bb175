"""What labels look like, and what class each of them means: integers, one-hot rows, several labels a sample, names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]


class NoClasses(NamedTuple):
    """There is nothing to count.

    Attributes:
        reason: Why, and what would help, as a sentence.
    """

    reason: str


class ClassLabels(NamedTuple):
    """The classes of the samples.

    Attributes:
        classes: What each class is called in the dataset, in the order of the counts.
        codes: The class of each sample as a place in ``classes``, -1 where it has none, shape (samples,); or, where a
            sample may have several labels, zeros and ones of shape (samples, classes).
    """

    classes: tuple[Any, ...]
    codes: Array

    @property
    def one_each(self) -> bool:
        """Whether each sample has one label."""
        return self.codes.ndim == 1

    @property
    def excluded(self) -> int:
        """Samples whose label is no class."""
        return int((self.codes < 0).sum())

    def per_class(self, weights: Array | None = None) -> Array:
        """Samples of each class, or the sum of their ``weights`` (shape (samples,)), shape (classes,)."""
        if not self.one_each:
            counts: Array = self.codes.sum(0) if weights is None else weights @ self.codes
            return counts
        kept = self.codes >= 0
        weights = None if weights is None else weights[kept]
        counts = np.bincount(self.codes[kept], weights=weights, minlength=len(self.classes))
        return counts if weights is None or weights.dtype.kind == "f" else counts.astype(np.int64)


def as_array(labels: Any) -> Array | None:
    """Labels of all samples as one array, first dimension samples; ``None`` where they have no common form."""
    if isinstance(labels, torch.Tensor):
        plain = labels.detach().cpu()
        return (plain.float() if plain.dtype in (torch.bfloat16, torch.float16) else plain).numpy()
    if hasattr(labels, "to_numpy"):  # a column of a table
        labels = labels.to_numpy()
    if isinstance(labels, Mapping):
        return None
    if not isinstance(labels, np.ndarray):
        try:
            rows = list(labels)
            if rows and isinstance(rows[0], torch.Tensor):
                return as_array(torch.stack(rows))
            labels = np.array(rows)
        except (TypeError, ValueError, RuntimeError):  # not a sequence, or rows of different lengths
            return None
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels.ravel()):
        labels = labels.astype(str)
    return labels if labels.ndim and labels.dtype.kind in "biufUS" else None


def read_classes(
    labels: Array, num_classes: int | None = None, ignore_index: int = -100, *, however_many: bool = False
) -> ClassLabels | NoClasses:
    """Which class each label means, or why they mean none.

    Args:
        labels: As :func:`as_array` returns them.
        num_classes: How many classes the model knows; those that never occur are counted too, as zero.
        ignore_index: A label that counts as none, beside all negative ones.
        however_many: Whether the labels are known to be classes, however few samples each has.

    Raises:
        ValueError: If there are more classes than ``num_classes``.

    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if not len(labels):
        return NoClasses("There are no labels.")
    if labels.ndim == 2:
        return _rows(labels, num_classes)
    if labels.ndim > 2:
        return NoClasses(f"A label has the shape {labels.shape[1:]}: a mask or several targets, not a class.")
    if labels.dtype.kind in "US":
        return _names(labels, num_classes, however_many)
    if labels.dtype.kind == "f" and not _all_whole(labels):
        return NoClasses("The labels are real numbers, as for a regression, not classes.")
    return _whole_numbers(labels.astype(np.int64), num_classes, ignore_index, however_many)


def _whole_numbers(
    labels: Array, num_classes: int | None, ignore_index: int, however_many: bool
) -> ClassLabels | NoClasses:
    kept = (labels >= 0) & (labels != ignore_index)
    occurring = np.unique(labels[kept])
    if not len(occurring):
        return NoClasses("Every label is negative or `ignore_index`: the samples are not labelled.")
    if num_classes is None:
        if not however_many and (crowd := _too_many(len(occurring), int(kept.sum()))) is not None:
            return crowd
        classes = occurring
    elif occurring[-1] >= num_classes:
        raise ValueError(
            f"Expected labels from 0 to num_classes - 1 = {num_classes - 1}, but the training set has a label "
            f"{occurring[-1]}. Pass the `num_classes` of the model, or `ignore_index` for a label that is none."
        )
    else:
        classes = np.arange(num_classes)
    codes = np.where(kept, np.searchsorted(classes, labels), -1)
    return ClassLabels(tuple(classes.tolist()), codes)


def _names(labels: Array, num_classes: int | None, however_many: bool) -> ClassLabels | NoClasses:
    names, codes = np.unique(labels.astype(str), return_inverse=True)
    if num_classes is None:
        crowd = None if however_many else _too_many(len(names), len(codes))
        return crowd or ClassLabels(tuple(names.tolist()), codes)
    if len(names) > num_classes:
        raise ValueError(f"Expected at most num_classes = {num_classes} names of classes, but found {len(names)}.")
    unseen = [f"(never seen {i})" for i in range(1, num_classes - len(names) + 1)]
    return ClassLabels((*names.tolist(), *unseen), codes)


def _rows(labels: Array, num_classes: int | None) -> ClassLabels | NoClasses:
    width = labels.shape[1]
    if labels.dtype.kind in "US" or not np.isin(labels, (0, 1)).all():
        return NoClasses(f"A label is a row of {width} values that are not all 0 or 1: soft labels or several targets.")
    if num_classes is not None and width != num_classes:
        raise ValueError(f"Expected rows of num_classes = {num_classes} zeros and ones, but got rows of {width}.")
    rows = labels.astype(np.int64)
    one_hot = bool((rows.sum(1) == 1).all())
    return ClassLabels(tuple(range(width)), rows.argmax(1) if one_hot else rows)


def _too_many(distinct: int, samples: int) -> NoClasses | None:
    """Labels that hardly ever come twice are names of samples or measurements."""
    if distinct <= 2 or 2 * distinct <= samples:
        return None
    return NoClasses(
        f"{samples} labels have {distinct} different values, too many for classes. Pass `num_classes` if they are."
    )


def _all_whole(values: Array) -> bool:
    return bool(np.isfinite(values).all() and (values % 1 == 0).all())
