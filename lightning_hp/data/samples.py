"""Reading samples of a dataset without leaving a trace, and where the label is in a sample."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lightning_hp.data.classes import as_array

#: Where the label is in a sample: a position, a key, or a function from the sample to its label.
Where = Hashable | Callable[[Any], Any] | None

#: Keys under which a sample that is a dictionary holds its label, the first of them that it has.
LABEL_KEYS = ("label", "labels", "target", "targets", "y")

_MISSING = object()


@contextmanager
def untouched(*things: Any) -> Iterator[None]:
    """Puts back, at the end, the random streams and whatever datasets and transforms keep in themselves."""
    # The room of the rehearsal loads Lightning, which counting the attribute of a dataset does not need.
    from lightning_hp.snapshot import RandomStreams, Snapshot

    streams, snapshot = RandomStreams(), Snapshot(data=things)
    try:
        yield
    finally:
        snapshot.restore()
        streams.restore()


def label_of(sample: Any, where: Where = None) -> Any:
    """The label in a sample: at ``where``; else the second of a tuple, or what is under a key of `LABEL_KEYS`.

    Raises:
        LookupError: If there is none.

    """
    found = _look(sample, where)
    if found is _MISSING:
        keys = f" with the keys {sorted(map(str, sample))}" if isinstance(sample, Mapping) else ""
        raise LookupError(
            f"Expected a label in a sample at {where!r}, but a sample is a {type(sample).__name__}{keys}."
            if where is not None
            else f"Expected a sample (x, label) or a dictionary with one of {', '.join(LABEL_KEYS)}, but a sample is a "
            f"{type(sample).__name__}{keys}. Say where its label is with `label`: a position, a key or a function."
        )
    return found


def same_label(one: Any, other: Any) -> bool:
    """Whether two labels are the same value, whatever holds them."""
    pair = [as_array([label]) for label in (one, other)]
    if pair[0] is None or pair[1] is None:
        return False
    return bool(np.array_equal(pair[0].squeeze(), pair[1].squeeze()))


def _look(sample: Any, where: Where) -> Any:
    if callable(where):
        return where(sample)
    if isinstance(sample, Mapping):
        keys = LABEL_KEYS if where is None else (where,)
        return next((sample[key] for key in keys if key in sample), _MISSING)
    if isinstance(sample, (tuple, list)):
        place = 1 if where is None else where
        return sample[place] if isinstance(place, int) and -len(sample) <= place < len(sample) else _MISSING
    if where is not None and not isinstance(sample, torch.Tensor) and hasattr(sample, str(where)):
        return getattr(sample, str(where))
    return _MISSING
