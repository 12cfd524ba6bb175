"""A copy of a batch that shares its tensors, so that a training step may modify the containers of the batch.

The walk over the batch is its own: it builds new containers, while the walks that save a state return to the old ones.
"""

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

_LEAF_TYPES = (int, float, bool, str, bytes, type(None))
_UNCOPIED_TYPES = (Tensor, nn.Module, Optimizer, DataLoader, Dataset, Sampler, type)
_PICKLING_METHODS = ("__getstate__", "__reduce__", "__reduce_ex__")


def copy_batch(batch: Any) -> tuple[Any, list[Tensor]]:
    """Copies the containers of a batch at every depth and lists the tensors in them.

    Built-in containers, named tuples, mappings of any class (``UserDict``, ``BatchEncoding``), dataclasses and simple
    objects are copied. Objects of a class with pickling methods are copied only if it has ``__copy__``.

    Args:
        batch: Any object.

    Returns:
        The copy, which holds the same tensors, and the list of these tensors.

    """
    tensors: list[Tensor] = []
    copies: dict[int, Any] = {}

    def copy_of(thing: Any) -> Any:
        kind = type(thing)
        if kind in _LEAF_TYPES:
            return thing
        if kind is tuple or kind is list:
            return kind(map(copy_of, thing))
        if kind is dict:
            return {key: copy_of(value) for key, value in thing.items()}
        return copy_of_leaf(thing) if kind is Tensor else tree_map(copy_of_leaf, thing)

    def copy_of_leaf(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            tensors.append(leaf)
            return leaf
        if id(leaf) in copies:
            return copies[id(leaf)]
        if not _is_container(leaf):
            return leaf
        copied = copies[id(leaf)] = copy.copy(leaf)
        if copied is leaf or type(copied) is not type(leaf):
            return copied
        attributes = getattr(copied, "__dict__", {})
        attributes.update({name: copy_of(value) for name, value in list(attributes.items())})
        for name, value in slots_of(copied).items():
            object.__setattr__(copied, name, copy_of(value))
        if isinstance(copied, dict):
            for key in list(dict.keys(copied)):
                dict.__setitem__(copied, key, copy_of(dict.__getitem__(copied, key)))
        elif isinstance(copied, list):
            list.__setitem__(copied, slice(None), [copy_of(item) for item in list.__iter__(copied)])
        return copied

    return copy_of(batch), tensors


def _is_container(leaf: Any) -> bool:
    if isinstance(leaf, _UNCOPIED_TYPES):
        return False
    if isinstance(leaf, (Mapping, list, set)) or dataclasses.is_dataclass(leaf):
        return True
    if not (attributes_of(leaf) or slots_of(leaf)):
        return False
    bases = type(leaf).__mro__[:-1]
    return hasattr(leaf, "__copy__") or not any(name in vars(base) for base in bases for name in _PICKLING_METHODS)
