"""The labels that a dataset carries, found without reading its samples, through the wrappers that keep the order."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import ConcatDataset, IterableDataset, StackDataset, Subset, TensorDataset

from lightning_hp.data.classes import Array, ClassLabels, NoClasses, as_array, read_classes
from lightning_hp.data.samples import LABEL_KEYS, Where, label_of, same_label, untouched

#: Attributes with one label for each sample, in the order in which they are believed.
ATTRIBUTES = ("targets", "labels", "y", "_labels", "label", "target")

#: Attributes with one (something, label) for each sample.
PAIRS = ("samples", "_samples", "imgs", "_flat_character_images")

#: So many samples are read and compared with what the attribute says.
CHECKS = 8


class FoundLabels(NamedTuple):
    """The labels of a dataset.

    Attributes:
        values: One label for each sample, first dimension samples.
        source: Where they came from, in words.
    """

    values: Array
    source: str


def find_labels(dataset: Any, where: Where = None) -> FoundLabels | NoClasses:
    """The labels that a dataset carries, as the training sees them, or why they cannot be trusted.

    They are taken from its attributes, columns or tensors. Eight samples are then read and compared, because a wrapper
    may reorder, and a ``target_transform`` or an own ``__getitem__`` may change labels.

    Args:
        dataset: A map-style dataset, or a list of samples.
        where: Where the label is in a sample: a position, a key or a function; ``None`` for the usual places.

    Returns:
        The labels, or why there are none.

    Costs eight samples; all random streams, and what the dataset keeps in itself, are put back.

    """
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        return NoClasses(f"{type(dataset).__name__} has no length or no order, so its labels cannot be counted.")
    if not len(dataset):
        return NoClasses(f"{type(dataset).__name__} is empty.")
    reason = f"{type(dataset).__name__} has no attribute with a label for each of its {len(dataset)} samples."
    with untouched(dataset):
        for found in _candidates(dataset, where):
            if len(found.values) != len(dataset):
                continue
            if (fault := _fault(dataset, found, where)) is None:
                return found
            reason = fault
    return NoClasses(reason)


def _fault(dataset: Any, found: FoundLabels, where: Where) -> str | None:
    """Why the labels are not those of the samples, from a few of them; ``None`` if they are."""
    if type(dataset) is TensorDataset:
        return None  # its samples are its tensors
    for index in np.unique(np.linspace(0, len(dataset) - 1, CHECKS).astype(int)).tolist():
        try:
            label = label_of(dataset[index], where)
        except LookupError as error:
            return f"{found.source} cannot be compared with the samples. {error}"
        if not same_label(label, found.values[index]):
            return (
                f"{found.source} says {found.values[index]!s} for sample {index}, but the sample itself says {label!s}"
                ": something on the way reorders the samples or changes their labels."
            )
    return None


def _candidates(dataset: Any, where: Where) -> Iterator[FoundLabels]:
    """What may be the labels, most likely first. Whether it is one of them, the samples have to say."""
    if isinstance(dataset, Subset):
        indices = np.asarray(dataset.indices, dtype=np.int64)
        for found in _candidates(dataset.dataset, where):
            if len(found.values) == len(dataset.dataset):  # type: ignore[arg-type]
                yield FoundLabels(found.values[indices], f"{found.source} through Subset")
    elif isinstance(dataset, ConcatDataset):
        yield from _joined(dataset.datasets, where)
    elif isinstance(dataset, TensorDataset):
        yield from _tensors(dataset.tensors, where)
    elif isinstance(dataset, StackDataset):
        yield from _stacked(dataset.datasets, where)
    elif isinstance(dataset, (list, tuple)):
        yield from _listed(dataset, where)
    elif isinstance(getattr(dataset, "column_names", None), list):
        yield from _columns(dataset, where)
    else:
        yield from _attributes(dataset)


def _attributes(dataset: Any) -> Iterator[FoundLabels]:
    for name in (*ATTRIBUTES, *PAIRS):
        held = getattr(dataset, name, None)
        if held is None or callable(held):
            continue
        if name in PAIRS:
            if not isinstance(held, Sequence) or not all(isinstance(pair, tuple) and len(pair) > 1 for pair in held):
                continue
            held = [pair[-1] for pair in held]
        if (values := as_array(held)) is not None:
            yield FoundLabels(_transformed(dataset, values), f"{type(dataset).__name__}.{name}")


def _transformed(dataset: Any, values: Array) -> Array:
    """The labels after the ``target_transform`` of torchvision, asked once for each different label."""
    transform = getattr(dataset, "target_transform", None)
    if transform is None or values.ndim != 1:
        return values
    different, codes = np.unique(values, return_inverse=True)
    if len(different) > len(values) // 2 + 2:
        return values
    changed = as_array([transform(label) for label in different.tolist()])
    return values if changed is None else changed[codes]


def _joined(datasets: Sequence[Any], where: Where) -> Iterator[FoundLabels]:
    parts = []
    for part in datasets:
        fitting = (found for found in _candidates(part, where) if len(found.values) == len(part))
        if (first := next(fitting, None)) is None:
            return
        parts.append(first)
    if len({(found.values.shape[1:], found.values.dtype.kind in "US") for found in parts}) == 1:
        sources = dict.fromkeys(found.source for found in parts)
        yield FoundLabels(np.concatenate([found.values for found in parts]), " and ".join(sources))


def _tensors(tensors: Sequence[torch.Tensor], where: Where) -> Iterator[FoundLabels]:
    """The last of them that reads as classes, integers before others; the first one is the input."""
    places = [where % len(tensors)] if isinstance(where, int) else list(range(len(tensors) - 1, 0, -1))
    held = {place: values for place in places if (values := as_array(tensors[place])) is not None}
    readable = [place for place, values in held.items() if isinstance(read_classes(values), ClassLabels)]
    readable.sort(key=lambda place: held[place].ndim > 1 or held[place].dtype.kind == "f")
    for place in dict.fromkeys([*readable, *reversed(held)]):
        yield FoundLabels(held[place], f"TensorDataset.tensors[{place}]")


def _stacked(datasets: Any, where: Where) -> Iterator[FoundLabels]:
    held = dict(datasets) if isinstance(datasets, Mapping) else dict(enumerate(datasets))
    for key in (1, *LABEL_KEYS) if where is None or callable(where) else (where,):
        if key in held and (values := as_array(held[key])) is not None:
            yield FoundLabels(values, f"StackDataset.datasets[{key!r}]")


def _listed(samples: Sequence[Any], where: Where) -> Iterator[FoundLabels]:
    try:
        values = as_array([label_of(sample, where) for sample in samples])
    except LookupError:
        return
    if values is not None:
        yield FoundLabels(values, f"the {len(samples)} samples of a list")


def _columns(dataset: Any, where: Where) -> Iterator[FoundLabels]:
    """A column of Hugging Face datasets; `[name]` goes through its selections."""
    for name in LABEL_KEYS if where is None or callable(where) else (where,):
        if name in dataset.column_names and (values := as_array(dataset[name])) is not None:
            yield FoundLabels(values, f"the column {name!r}")


#: So many samples tell what one costs.
_FIRST = 16


def labels_by_pass(
    dataset: Any, *, label: Where = None, max_items: int = 100_000, max_seconds: float = 60.0
) -> FoundLabels | NoClasses:
    """Reads every sample once for its label; a pass that would take too long is refused.

    Args:
        dataset: A map-style dataset.
        label: Where the label is in a sample: a position, a key or a function; ``None`` for the second of a tuple or
            the usual keys.
        max_items: The most samples that may be read.
        max_seconds: The longest that it may take, estimated after 16 samples and watched from then on.

    Returns:
        The labels, or why there are none.

    Raises:
        LookupError: If a sample holds no label where it was expected.

    Costs one read of every sample, its transforms included. All random streams, and what dataset and transforms keep in
    themselves, are put back, after an exception too. Does not help where a transform mixes labels (CutMix): the rows
    are then no classes.
    """
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        return NoClasses(f"{type(dataset).__name__} has no length or no order, so its labels cannot be counted.")
    size, found = len(dataset), []
    if size > max_items:
        return NoClasses(
            f"A pass over {size} samples for their labels was not made, since at most {max_items} were allowed. Raise "
            "`max_items`, give the dataset an attribute `targets`, or pass the labels."
        )
    with untouched(dataset):
        start = time.perf_counter()
        for index in range(size):
            found.append(label_of(dataset[index], label))
            seconds = time.perf_counter() - start
            if index + 1 >= min(size, _FIRST) and (whole := seconds / (index + 1) * size) > max_seconds:
                return NoClasses(
                    f"A pass over {size} samples for their labels was stopped: it would take {whole:.0f} s, and at "
                    f"most {max_seconds:g} s were allowed. Raise `max_seconds`, give the dataset an attribute "
                    "`targets`, or pass the labels."
                )
    values = as_array(found)
    if values is None:
        return NoClasses(f"The labels of {size} samples have no common form; the first is {found[:1]!r:.60}.")
    return FoundLabels(values, f"a pass over {size} samples")
