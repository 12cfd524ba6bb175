"""The labels of a dataset: those that it carries, compared with a few samples, or those of a pass over all samples."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, TensorDataset

from lightning_hp.data.carried_labels import Labels, carried_labels
from lightning_hp.data.classes import UnknownClasses, as_array
from lightning_hp.data.samples import LabelLocation, label_of, no_side_effects, same_label

#: Number of samples that are read and compared with the labels that a dataset carries.
NUM_COMPARED = 8

#: Number of samples after which the duration of a pass is estimated.
NUM_TIMED = 16


def num_samples(dataset: Any) -> int | UnknownClasses:
    """The length of a map-style dataset, or why it has none."""
    if hasattr(dataset, "__getitem__") and not isinstance(dataset, (IterableDataset, type)):
        try:
            return len(dataset)
        except (TypeError, NotImplementedError):  # no `__len__`, or one without an answer
            pass
    return UnknownClasses(f"{type(dataset).__name__} has no length or no order, so its labels cannot be counted.")


def find_labels(dataset: Any, location: LabelLocation = None) -> Labels | UnknownClasses:
    """The labels that a dataset carries in its attributes, columns or tensors.

    Eight samples are read and compared with them, because a wrapper may reorder samples, and a ``target_transform`` or
    a custom ``__getitem__`` may change labels.

    Args:
        dataset: A map-style dataset, or a list of samples.
        location: Where the label of a sample is.

    Returns:
        The labels, or the reason why there are none that agree with the samples.

    Note:
        Reads at most eight samples for each candidate, without side effects.

    """
    size = num_samples(dataset)
    if isinstance(size, UnknownClasses):
        return size
    if not size:
        return UnknownClasses(f"{type(dataset).__name__} is empty.")
    reason = f"{type(dataset).__name__} has no attribute with a label for each of its {size} samples."
    with no_side_effects(dataset):
        for labels in carried_labels(dataset, location):
            if len(labels.values) != size:
                continue
            if (difference := _difference(dataset, labels, location)) is None:
                return labels
            reason = difference
    return UnknownClasses(reason)


def read_labels(
    dataset: Any, *, location: LabelLocation = None, max_items: int = 100_000, max_seconds: float = 60.0
) -> Labels | UnknownClasses:
    """Reads every sample once to get its label, unless that takes too long.

    Args:
        dataset: A map-style dataset.
        location: Where the label of a sample is.
        max_items: The largest number of samples that may be read.
        max_seconds: The longest allowed duration, in seconds. It is estimated from the first 16 samples on.

    Returns:
        The labels, or the reason why there are none.

    Raises:
        LookupError: If a sample has no label at this location.

    Note:
        Reads every sample, with its transforms, and restores all random states and what the dataset stores in itself,
        also after an exception. If a transform mixes labels (CutMix), the labels are rows that are no classes.

    """
    size = num_samples(dataset)
    if isinstance(size, UnknownClasses):
        return size
    if size > max_items:
        return UnknownClasses(
            f"A pass over {size} samples for their labels was not made, since at most {max_items} were allowed. Raise "
            "`max_items`, give the dataset an attribute `targets`, or pass the labels."
        )
    labels: list[Any] = []
    with no_side_effects(dataset):
        start = time.perf_counter()
        for index in range(size):
            labels.append(label_of(dataset[index], location))
            seconds = (time.perf_counter() - start) / (index + 1) * size
            if index + 1 >= min(size, NUM_TIMED) and seconds > max_seconds:
                return UnknownClasses(
                    f"A pass over {size} samples for their labels was stopped: it would take {seconds:.0f} s, and at "
                    f"most {max_seconds:g} s were allowed. Raise `max_seconds`, give the dataset an attribute "
                    "`targets`, or pass the labels."
                )
    values = as_array(labels)
    if values is None:
        return UnknownClasses(f"The labels of {size} samples have no common form; the first is {labels[:1]!r:.60}.")
    return Labels(values, f"a pass over {size} samples")


def _difference(dataset: Any, labels: Labels, location: LabelLocation) -> str | None:
    """How the labels differ from those of a few samples, as a sentence; ``None`` if they do not."""
    if type(dataset) is TensorDataset:
        return None  # its samples are its tensors
    for index in np.unique(np.linspace(0, len(dataset) - 1, NUM_COMPARED).astype(int)).tolist():
        try:
            label = label_of(dataset[index], location)
        except LookupError as error:
            return f"{labels.source} cannot be compared with the samples. {error}"
        if not same_label(label, labels.values[index]):
            return (
                f"{labels.source} says {labels.values[index]!s} for sample {index}, but the sample itself says "
                f"{label!s}: something on the way reorders the samples or changes their labels."
            )
    return None
