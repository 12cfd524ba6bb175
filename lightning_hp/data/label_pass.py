"""A pass over a dataset for its labels alone, where nothing else knows them."""

from __future__ import annotations

import time
from typing import Any

from torch.utils.data import IterableDataset

from lightning_hp.data.label_kinds import NoClasses, as_array
from lightning_hp.data.labels import FoundLabels
from lightning_hp.data.samples import Where, label_of, untouched

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
