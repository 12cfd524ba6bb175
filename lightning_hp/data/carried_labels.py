"""Labels that a dataset carries in attributes, columns or tensors, through wrappers; no sample is read.

One recursive walk: each kind of dataset yields what may be its labels, most likely first, and a wrapper yields the
candidates of the dataset inside it. :func:`~lightning_hp.data.labels.find_labels` compares them with a few samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import ConcatDataset, StackDataset, Subset, TensorDataset

from lightning_hp.data.classes import Array, ClassLabels, as_array, read_classes
from lightning_hp.data.samples import LabelLocation, label_of, possible_keys

#: Attributes that may hold one label for each sample, most likely first.
LABEL_ATTRIBUTES = ("targets", "labels", "y", "_labels", "label", "target")

#: Attributes that may hold a tuple (..., label) for each sample.
TUPLE_ATTRIBUTES = ("samples", "_samples", "imgs", "_flat_character_images")


class Labels(NamedTuple):
    """Labels of a dataset.

    Attributes:
        values: One label for each sample; the first axis is samples.
        source: Where they come from, as text.
    """

    values: Array
    source: str


def carried_labels(dataset: Any, location: LabelLocation) -> Iterator[Labels]:
    """Candidates for the labels of a dataset, most likely first; their length may differ from the dataset's.

    Args:
        dataset: A map-style dataset, or a list of samples.
        location: Where the label of a sample is.

    """
    if isinstance(dataset, Subset):
        yield from _of_subset(dataset, location)
    elif isinstance(dataset, ConcatDataset):
        yield from _of_parts(dataset.datasets, location)
    elif isinstance(dataset, TensorDataset):
        yield from _of_tensors(dataset.tensors, location)
    elif isinstance(dataset, StackDataset):
        yield from _of_stack(dataset.datasets, location)
    elif isinstance(dataset, (list, tuple)):
        yield from _of_list(dataset, location)
    elif isinstance(getattr(dataset, "column_names", None), list):
        yield from _of_columns(dataset, location)
    else:
        yield from _of_attributes(dataset)


def _of_subset(subset: Subset[Any], location: LabelLocation) -> Iterator[Labels]:
    indices = np.asarray(subset.indices, dtype=np.int64)
    for labels in carried_labels(subset.dataset, location):
        if len(labels.values) == len(subset.dataset):  # type: ignore[arg-type]
            yield Labels(labels.values[indices], f"{labels.source} through Subset")


def _of_parts(datasets: Sequence[Any], location: LabelLocation) -> Iterator[Labels]:
    """The first candidate of each part, joined."""
    parts = []
    for part in datasets:
        candidates = (labels for labels in carried_labels(part, location) if len(labels.values) == len(part))
        if (first := next(candidates, None)) is None:
            return
        parts.append(first)
    if len({(labels.values.shape[1:], labels.values.dtype.kind in "US") for labels in parts}) == 1:
        sources = dict.fromkeys(labels.source for labels in parts)
        yield Labels(np.concatenate([labels.values for labels in parts]), " and ".join(sources))


def _of_tensors(tensors: Sequence[torch.Tensor], location: LabelLocation) -> Iterator[Labels]:
    """Tensors that read as classes first, integer vectors before others, the last one before others; never the input.

    The input is the first tensor.
    """
    indices = [location % len(tensors)] if isinstance(location, int) else list(range(len(tensors) - 1, 0, -1))
    arrays = {index: values for index in indices if (values := as_array(tensors[index])) is not None}
    classes = [index for index, values in arrays.items() if isinstance(read_classes(values), ClassLabels)]
    classes.sort(key=lambda index: arrays[index].ndim > 1 or arrays[index].dtype.kind == "f")
    for index in dict.fromkeys([*classes, *reversed(arrays)]):
        yield Labels(arrays[index], f"TensorDataset.tensors[{index}]")


def _of_stack(datasets: Any, location: LabelLocation) -> Iterator[Labels]:
    parts = dict(datasets) if isinstance(datasets, Mapping) else dict(enumerate(datasets))
    for key in possible_keys(location):
        if key in parts and (values := as_array(parts[key])) is not None:
            yield Labels(values, f"StackDataset.datasets[{key!r}]")


def _of_list(samples: Sequence[Any], location: LabelLocation) -> Iterator[Labels]:
    try:
        values = as_array([label_of(sample, location) for sample in samples])
    except LookupError:
        return
    if values is not None:
        yield Labels(values, f"the {len(samples)} samples of a list")


def _of_columns(dataset: Any, location: LabelLocation) -> Iterator[Labels]:
    """Columns of a Hugging Face dataset; ``dataset[name]`` applies its selection of rows."""
    for name in possible_keys(location):
        if name in dataset.column_names and (values := as_array(dataset[name])) is not None:
            yield Labels(values, f"the column {name!r}")


def _of_attributes(dataset: Any) -> Iterator[Labels]:
    for name in (*LABEL_ATTRIBUTES, *TUPLE_ATTRIBUTES):
        value = getattr(dataset, name, None)
        if value is None or callable(value):
            continue
        if name in TUPLE_ATTRIBUTES:
            if not isinstance(value, Sequence) or not all(
                isinstance(entry, tuple) and len(entry) > 1 for entry in value
            ):
                continue
            value = [entry[-1] for entry in value]
        if (values := as_array(value)) is not None:
            yield Labels(_apply_target_transform(dataset, values), f"{type(dataset).__name__}.{name}")


def _apply_target_transform(dataset: Any, values: Array) -> Array:
    """The labels after the ``target_transform`` of a torchvision dataset, called once for each different label."""
    transform = getattr(dataset, "target_transform", None)
    if transform is None or values.ndim != 1:
        return values
    different, codes = np.unique(values, return_inverse=True)
    if len(different) > len(values) // 2 + 2:
        return values
    transformed = as_array([transform(label) for label in different.tolist()])
    return values if transformed is None else transformed[codes]
