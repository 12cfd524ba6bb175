"""One sample of a dataset: where its label is, and how it is read without side effects."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lightning_hp.data.classes import as_array
from lightning_hp.snapshot import RandomState, Snapshot

#: Where the label of a sample is: a position, a key, or a function from the sample to its label. ``None``: the default,
#: which is position 1 of a tuple or list, and the first of `LABEL_KEYS` that a mapping has.
LabelLocation = Hashable | Callable[[Any], Any] | None

#: Keys under which a sample may keep its label, most common first.
LABEL_KEYS = ("label", "labels", "target", "targets", "y")

_MISSING = object()


def label_of(sample: Any, location: LabelLocation = None) -> Any:
    """The label of a sample.

    Args:
        sample: A tuple, a list, a mapping, or an object with attributes.
        location: Where the label is.

    Raises:
        LookupError: If there is no label.

    Example:
        >>> label_of(("image", 3)), label_of({"image": "image", "label": 3}), label_of((3, "image"), 0)
        (3, 3, 3)

    """
    label = _find(sample, location)
    if label is _MISSING:
        keys = f" with the keys {sorted(map(str, sample))}" if isinstance(sample, Mapping) else ""
        raise LookupError(
            f"Expected a label in a sample at {location!r}, but a sample is a {type(sample).__name__}{keys}."
            if location is not None
            else f"Expected a sample (x, label) or a dictionary with one of {', '.join(LABEL_KEYS)}, but a sample is a "
            f"{type(sample).__name__}{keys}. Say where its label is with `label`: a position, a key or a function."
        )
    return label


def possible_keys(location: LabelLocation) -> tuple[Any, ...]:
    """The keys or positions under which data that is stored column by column may keep the labels, most likely first.

    A function applies to samples and says nothing about columns.
    """
    return (*LABEL_KEYS, 1) if location is None or callable(location) else (location,)


def same_label(first: Any, second: Any) -> bool:
    """Whether two labels have the same value, as a number, a tensor or an array.

    Example:
        >>> same_label(2, torch.tensor([2.0])), same_label("a", "b")
        (True, False)

    """
    arrays = [as_array([label]) for label in (first, second)]
    if arrays[0] is None or arrays[1] is None:
        return False
    return bool(np.array_equal(arrays[0].squeeze(), arrays[1].squeeze()))


@contextmanager
def no_side_effects(dataset: Any) -> Iterator[None]:
    """Restores on exit all random states, and what the dataset and its transforms store in themselves."""
    random_state, snapshot = RandomState(), Snapshot(data=(dataset,))
    try:
        yield
    finally:
        snapshot.restore()
        random_state.restore()


def _find(sample: Any, location: LabelLocation) -> Any:
    if callable(location):
        return location(sample)
    if isinstance(sample, Mapping):
        return next((sample[key] for key in possible_keys(location) if key in sample), _MISSING)
    if isinstance(sample, (tuple, list)):
        index = 1 if location is None else location
        return sample[index] if isinstance(index, int) and -len(sample) <= index < len(sample) else _MISSING
    if location is not None and not isinstance(sample, torch.Tensor) and hasattr(sample, str(location)):
        return getattr(sample, str(location))
    return _MISSING
