"""From labels to classes: which class an integer, a one-hot row, a row of several labels or a name means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_hp.functional.checks import MAX_INT

Array = NDArray[Any]


class UnknownClasses(NamedTuple):
    """The classes cannot be determined.

    Attributes:
        reason: Why, and what would help, in full sentences.
    """

    reason: str


class ClassLabels(NamedTuple):
    """The class of each sample.

    Attributes:
        classes: The name of each class in the dataset, in the order of the counts.
        codes: The class of each sample as an index into ``classes``, -1 for none, shape (samples,). If a sample may
            have several labels: zeros and ones, shape (samples, classes).
    """

    classes: tuple[Any, ...]
    codes: Array

    @property
    def single_label(self) -> bool:
        """Whether each sample has at most one label."""
        return self.codes.ndim == 1

    @property
    def num_excluded(self) -> int:
        """Number of samples without a class."""
        return int((self.codes < 0).sum())

    def per_class(self, weights: Array | None = None) -> Array:
        """Number of samples of each class, or the sum of their weights.

        Args:
            weights: A weight for each sample, shape (samples,).

        Returns:
            Shape (classes,).

        """
        if not self.single_label:
            counts: Array = self.codes.sum(0) if weights is None else weights @ self.codes
            return counts
        included = self.codes >= 0
        weights = None if weights is None else weights[included]
        counts = np.bincount(self.codes[included], weights=weights, minlength=len(self.classes))
        return counts if weights is None or weights.dtype.kind == "f" else counts.astype(np.int64)


def as_array(labels: Any) -> Array | None:
    """The labels of all samples as one array.

    Args:
        labels: A tensor, an array, a column of a table or an iterable of labels.

    Returns:
        Numbers, bools or strings, with samples as the first axis; ``None`` if the labels have no common shape or type,
        or no data (a tensor on the meta device).

    """
    if isinstance(labels, torch.Tensor):
        if labels.is_meta or labels.layout != torch.strided:
            return None
        values = labels.detach().cpu()
        labels = (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
    if hasattr(labels, "to_numpy"):  # a column of pandas, polars or pyarrow
        labels = labels.to_numpy()
    if isinstance(labels, (str, bytes, bytearray, memoryview, Mapping)):
        return None
    if not isinstance(labels, np.ndarray):
        try:
            rows = list(labels)
            if rows and isinstance(rows[0], torch.Tensor):
                return as_array(torch.stack(rows))
            labels = np.array(rows)
        except (TypeError, ValueError, RuntimeError, MemoryError):  # not iterable, rows of different lengths, too many
            return None
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels.ravel()):
        labels = labels.astype(str)
    return labels if labels.ndim and labels.dtype.kind in "biufUS" else None


def read_classes(
    labels: Array, num_classes: int | None = None, ignore_index: int = -100, *, are_classes: bool = False
) -> ClassLabels | UnknownClasses:
    """Determines which class each label means.

    Args:
        labels: What :func:`as_array` returns.
        num_classes: Number of classes of the model. Classes without a sample are included. ``None``: only the classes
            that occur.
        ignore_index: A label that means "no class", in addition to all negative labels.
        are_classes: Whether the labels are known to be classes. Otherwise labels with almost as many different values
            as samples are rejected, because they are probably identifiers or measurements.

    Returns:
        The classes, or the reason why the labels are no classes.

    Raises:
        ValueError: If there are more classes than ``num_classes``.

    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if not len(labels):
        return UnknownClasses("There are no labels.")
    if labels.ndim == 2:
        return _from_rows(labels, num_classes)
    if labels.ndim > 2:
        return UnknownClasses(f"A label has the shape {labels.shape[1:]}: a mask or several targets, not a class.")
    if labels.dtype.kind in "US":
        return _from_names(labels, num_classes, are_classes)
    if labels.dtype.kind == "f" and not _all_integers(labels):
        return UnknownClasses("The labels are real numbers, as for a regression; classes have to be integers or names.")
    return _from_integers(labels.astype(np.int64), num_classes, ignore_index, are_classes)


def _from_integers(
    labels: Array, num_classes: int | None, ignore_index: int, are_classes: bool
) -> ClassLabels | UnknownClasses:
    included = (labels >= 0) & (labels != ignore_index)
    occurring = np.unique(labels[included])
    if not len(occurring):
        return UnknownClasses("Every label is negative or means that there is no class: the samples are not labelled.")
    if num_classes is None:
        if not are_classes and (too_many := _too_many_values(len(occurring), int(included.sum()))) is not None:
            return too_many
        classes = occurring
    elif occurring[-1] >= num_classes:
        raise ValueError(
            f"Expected labels from 0 to num_classes - 1 = {num_classes - 1}, but the training set has a label "
            f"{occurring[-1]}. Correct `num_classes`, or the labels; a negative label means no class."
        )
    else:
        classes = np.arange(num_classes)
    codes = np.where(included, np.searchsorted(classes, labels), -1)
    return ClassLabels(tuple(classes.tolist()), codes)


def _from_names(labels: Array, num_classes: int | None, are_classes: bool) -> ClassLabels | UnknownClasses:
    names, codes = np.unique(labels.astype(str), return_inverse=True)
    if num_classes is None:
        too_many = None if are_classes else _too_many_values(len(names), len(codes))
        return too_many or ClassLabels(tuple(names.tolist()), codes)
    if len(names) > num_classes:
        raise ValueError(f"Expected at most num_classes = {num_classes} names of classes, but found {len(names)}.")
    unseen = [f"(never seen {i})" for i in range(1, num_classes - len(names) + 1)]
    return ClassLabels((*names.tolist(), *unseen), codes)


def _from_rows(labels: Array, num_classes: int | None) -> ClassLabels | UnknownClasses:
    width = labels.shape[1]
    if labels.dtype.kind in "US" or not np.isin(labels, (0, 1)).all():
        return UnknownClasses(
            f"A label is a row of {width} values that are not all 0 or 1: soft labels or several targets."
        )
    if num_classes is not None and width != num_classes:
        raise ValueError(f"Expected rows of num_classes = {num_classes} zeros and ones, but got rows of {width}.")
    rows = labels.astype(np.int64)
    one_hot = bool((rows.sum(1) == 1).all())
    return ClassLabels(tuple(range(width)), rows.argmax(1) if one_hot else rows)


def _too_many_values(num_different: int, num_labels: int) -> UnknownClasses | None:
    """The reason to reject labels that have more than half as many different values as samples."""
    if num_different <= 2 or 2 * num_different <= num_labels:
        return None
    return UnknownClasses(
        f"{num_labels} labels have {num_different} different values, too many for classes. Pass `num_classes` if they "
        "are."
    )


def _all_integers(values: Array) -> bool:
    return bool((np.abs(values) <= MAX_INT).all() and (values % 1 == 0).all())
