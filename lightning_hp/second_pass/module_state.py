"""The state that a user keeps on modules besides parameters: attributes, containers, arrays, random generators.

This is a walk over objects of its own besides ``snapshot.Snapshot``, since it runs twice in each step of SAM and has to
take microseconds: it does not open modules, optimizers or datasets, copies no tensor, and tracks no paths. What an
object holds and how it is restored is shared with it (``attributes_of``, ``slots_of``, ``restore_*``).
"""

from __future__ import annotations

import io
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_hp.snapshot import (
    attributes_of,
    restore_array,
    restore_dict,
    restore_sequence,
    restore_slots,
    slots_of,
)

# Of a longer container the items are not visited; of one with more items than the second number no copy is made.
_MAX_VISITED_ITEMS = 100
_MAX_COPIED_ITEMS = 10_000
_MAX_ARRAY_BYTES = 1 << 16

_LEAF_TYPES = (str, bytes, int, float, complex, bool, type(None), torch.device, torch.dtype, torch.Size, type)
_CLOSED_TYPES = (nn.Module, DataLoader, Dataset, Sampler, nn.Parameter)  # submodules are in `module.modules()`
_GENERATOR_TYPES = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
# The attributes of every module, none of which is written while it trains, except `training`.
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module())) - {"training"}


@dataclass
class Visit:
    """What one walk has found.

    Attributes:
        tensors: Tensors in attributes and containers, and the buffers of all layers.
        generators: Random number generators.
        iterators: The types of iterators, whose position cannot be restored.
        undo: Functions that restore attributes, containers and arrays; empty if nothing was to be saved.

    """

    tensors: list[Tensor] = field(default_factory=list)
    generators: list[Any] = field(default_factory=list)
    iterators: list[str] = field(default_factory=list)
    undo: list[Callable[[], Any]] = field(default_factory=list)


class ModuleState:
    """The state on a module and its layers that are of a user's class.

    Args:
        module: The module. Layers that are added to it later are not visited.

    """

    def __init__(self, module: nn.Module) -> None:
        layers = list(module.modules())
        self._owners = [vars(layer) for layer in layers if not _is_of_torch(type(layer))]
        # A layer of a user's class may register its first buffer in its first step.
        self._buffers = [layer._buffers for layer in layers if layer._buffers or not _is_of_torch(type(layer))]

    def visit(self, *, save: bool) -> Visit:
        """Walks over all attributes of the layers.

        Args:
            save: Whether the contents of attributes, containers and arrays are saved.

        """
        found = Visit()
        visited: set[int] = set()
        queue: list[Any] = []
        for owner in self._owners:
            if save:
                found.undo.append(partial(restore_dict, owner, dict(owner)))
            queue += [value for name, value in owner.items() if name not in _MODULE_ATTRIBUTES]
        for buffers in self._buffers:
            if save:
                found.undo.append(partial(restore_dict, buffers, dict(buffers)))
            found.tensors += [buffer for buffer in buffers.values() if buffer is not None]
        while queue:
            thing = queue.pop()
            if isinstance(thing, _LEAF_TYPES) or id(thing) in visited:
                continue
            visited.add(id(thing))
            if isinstance(thing, _CLOSED_TYPES):
                continue
            if isinstance(thing, Tensor):
                found.tensors.append(thing)
            elif isinstance(thing, _GENERATOR_TYPES):
                found.generators.append(thing)
            elif isinstance(thing, np.ndarray):
                if save and thing.flags.writeable and thing.nbytes <= _MAX_ARRAY_BYTES:
                    found.undo.append(partial(restore_array, thing, thing.copy()))
            elif isinstance(thing, (dict, list, set, deque, tuple)):
                if save and not isinstance(thing, tuple):
                    found.undo += _save_container(thing)
                if len(thing) <= _MAX_VISITED_ITEMS:
                    queue += thing.values() if isinstance(thing, dict) else thing
            elif type(thing) not in _empty_types:
                queue += _visit_object(thing, found, save)
        return found


def _visit_object(thing: Any, found: Visit, save: bool) -> list[Any]:
    """The values that an object holds in its attributes and slots."""
    attributes, slots = attributes_of(thing), slots_of(thing)
    if slots and save:
        found.undo.append(partial(restore_slots, thing, slots))
    if attributes is None and not slots:
        if isinstance(thing, Iterator) and not isinstance(thing, io.IOBase):
            found.iterators.append(type(thing).__name__)
        elif not _has_slots(type(thing)):
            _empty_types.add(type(thing))
    return [*([] if attributes is None else [attributes]), *slots.values()]


# Types whose objects hold nothing to save.
_empty_types: set[type] = set()


def _has_slots(cls: type) -> bool:
    return any("__slots__" in vars(base) and base.__module__ != "builtins" for base in cls.__mro__)


def _save_container(container: Any) -> Iterable[Callable[[], Any]]:
    """Functions that restore the present items of a container."""
    if len(container) > _MAX_COPIED_ITEMS:
        return [partial(_truncate, container, len(container))] if isinstance(container, list) else []
    if isinstance(container, dict):
        return [partial(restore_dict, container, dict(container))]
    return [partial(restore_sequence, container, list(container))]


def _truncate(container: list[Any], length: int) -> None:
    """Restores a long list, under the assumption that it has only grown."""
    del container[length:]


def _is_of_torch(layer: type) -> bool:
    """Whether a module's class is torch's; a user's class from which FSDP2 has derived one is not."""
    return all(base.__module__.partition(".")[0] in ("torch", "builtins") for base in layer.__mro__)
