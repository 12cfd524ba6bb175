"""The numbers, texts and flags that a step may read from the module, its configuration, and the data.

A callback may shape the steps by them alone: a temperature of the loss, the weight of an auxiliary one, the size of the
images that a dataset gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_hp.snapshot import attributes_of

# Of longer containers, arrays and tensors no values are read: they hold samples or weights.
_MAX_ITEMS = 1000

# The walk ends here: it runs before and after each hook of an observed step.
_MAX_VALUES = 100_000

_PLAIN = (bool, int, float, complex, str, type(None))

# Where Lightning notes the names of the metrics that are logged.
_OF_LIGHTNING = "_metric_attributes"


def plain_values(roots: Iterable[Any]) -> dict[tuple[int, Any], str]:
    """The numbers, texts and flags in some objects, and in the containers and objects of the user that these hold.

    Args:
        roots: The objects. A module is visited without those that it holds.

    Returns:
        The text of each value, by the id of what holds it and its name or place there, of about 100000 at most. Small
        arrays and tensors count as values; reading them waits for their device.

    """
    values: dict[tuple[int, Any], str] = {}
    queue, visited = list(roots), set()
    while queue and len(values) < _MAX_VALUES:
        thing = queue.pop()
        if id(thing) in visited:
            continue
        visited.add(id(thing))
        for name, value in _held_by(thing):
            if isinstance(value, _PLAIN):
                values[id(thing), name] = repr(value)
            elif isinstance(value, Tensor | np.ndarray):
                if np.prod(value.shape) <= _MAX_ITEMS:
                    values[id(thing), name] = repr(value.tolist())
            elif not isinstance(value, nn.Module) and name != _OF_LIGHTNING:
                queue.append(value)
    return values


def _held_by(thing: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(thing, list | tuple):
        held: Any = dict(enumerate(thing[: _MAX_ITEMS + 1]))
    else:
        held = thing if isinstance(thing, dict) else attributes_of(thing) or {}
    yield from held.items() if len(held) <= _MAX_ITEMS else ()
