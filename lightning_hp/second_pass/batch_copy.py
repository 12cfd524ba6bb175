"""A batch that a step may take apart: its containers are copied, its tensors are not."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_hp.snapshot import attributes_of, slots_of

_CLOSED = (Tensor, nn.Module, Optimizer, DataLoader, Dataset, Sampler, type)
_PLAIN = (int, float, bool, str, bytes, type(None))
_PICKLING = ("__getstate__", "__reduce__", "__reduce_ex__")


def copy_batch(batch: Any) -> tuple[Any, list[Tensor]]:
    """Copies the containers of a batch, however deep, and tells which tensors are in them.

    Built-in containers, named tuples, mappings of any class (``UserDict``, ``BatchEncoding``), dataclasses and plain
    objects are copied; objects with a way of pickling of their own are not, unless they have ``__copy__``.

    Args:
        batch: Anything.

    Returns:
        The copy, which holds the same tensors, and these.

    """
    tensors: list[Tensor] = []
    twins: dict[int, Any] = {}

    def copied(thing: Any) -> Any:
        kind = type(thing)
        if kind in _PLAIN:
            return thing
        if kind is tuple or kind is list:
            return kind(map(copied, thing))
        if kind is dict:
            return {key: copied(value) for key, value in thing.items()}
        return copied_leaf(thing) if kind is Tensor else tree_map(copied_leaf, thing)

    def copied_leaf(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            tensors.append(leaf)
            return leaf
        if id(leaf) in twins:
            return twins[id(leaf)]
        if not _is_container(leaf):
            return leaf
        twin = twins[id(leaf)] = copy.copy(leaf)
        if twin is leaf or type(twin) is not type(leaf):
            return twin
        inside = getattr(twin, "__dict__", {})
        inside.update({name: copied(value) for name, value in list(inside.items())})
        for name, value in slots_of(twin).items():
            object.__setattr__(twin, name, copied(value))
        if isinstance(twin, dict):
            for key in list(dict.keys(twin)):
                dict.__setitem__(twin, key, copied(dict.__getitem__(twin, key)))
        elif isinstance(twin, list):
            list.__setitem__(twin, slice(None), [copied(item) for item in list.__iter__(twin)])
        return twin

    return copied(batch), tensors


def _is_container(leaf: Any) -> bool:
    if isinstance(leaf, _CLOSED):
        return False
    if isinstance(leaf, (Mapping, list, set)) or dataclasses.is_dataclass(leaf):
        return True
    if not (attributes_of(leaf) or slots_of(leaf)):
        return False
    bases = type(leaf).__mro__[:-1]
    return hasattr(leaf, "__copy__") or not any(name in vars(base) for base in bases for name in _PICKLING)
