"""A walk over objects that lists and saves what a training step may write: attributes, containers, arrays, tensors.

This is a walk of its own besides ``snapshot.Snapshot``, since it runs twice in each step of SAM and has to take
microseconds: it does not open modules, optimizers or datasets, copies no tensor, and tracks no paths. What an object
holds and how it is restored is shared with it (``attributes_of``, ``slots_of``, ``restore_*``).
"""

from __future__ import annotations

import io
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_hp.snapshot import (
    attributes_of,
    attributes_of_callback,
    copy_array,
    is_callback,
    is_opened_in_callback,
    items_of,
    items_of_sequence,
    restore_array,
    restore_dict,
    restore_sequence,
    restore_slots,
    restore_tail,
    slots_of,
    undo_of_generator,
)

# Of a list with more items than the first number only the length and what is appended are saved; of another container
# with more items than the second number nothing is.
_MAX_COPIED_LIST, _MAX_COPIED_ITEMS = 10_000, 100_000

_LEAF_TYPES = (str, bytes, int, float, complex, bool, type(None), torch.device, torch.dtype, torch.Size, type)
_CLOSED_TYPES = (nn.Module, DataLoader, Dataset, Sampler, nn.Parameter)  # submodules are in `module.modules()`
_GENERATOR_TYPES = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)


@dataclass
class Reachable:
    """What can be reached from some objects, and functions that restore it to its present state.

    Args:
        max_items: Of a container with more items the items are not visited.
        max_array_bytes: Larger arrays are not saved.

    Attributes:
        tensors: The tensors.
        iterators: The types of iterators, whose position cannot be restored.
        undo: Functions that restore attributes, containers, arrays and random generators, but not tensors.

    """

    max_items: float = math.inf
    max_array_bytes: float = math.inf
    tensors: list[Tensor] = field(default_factory=list)
    iterators: list[str] = field(default_factory=list)
    undo: list[Callable[[], Any]] = field(default_factory=list)
    _lengths: dict[int, int] = field(default_factory=dict)
    _callbacks: list[Any] = field(default_factory=list)  # those that were found
    _is_in_callback: bool = False

    def restore(self) -> None:
        """Restores everything but the tensors."""
        for undo in self.undo:
            undo()

    def visit(self, roots: Iterable[Any], earlier: Reachable | None = None, callbacks: Iterable[Any] = ()) -> None:
        """Visits objects and all that they hold; after these callbacks, of which iterators do not count.

        Args:
            roots: The objects.
            earlier: A walk over the same objects before a training step. :meth:`restore` of either can then be called
                after that of the other.
            callbacks: Callbacks that are visited as those that the roots hold.

        """
        lengths = {} if earlier is None else earlier._lengths
        visited: set[int] = set()
        self._is_in_callback = False
        self._walk(list(roots), visited, lengths)
        self._callbacks.extend(filter(is_callback, callbacks))
        self._is_in_callback = True
        while self._callbacks:
            callback = self._callbacks.pop()
            if id(callback) in visited:
                continue
            visited.add(id(callback))
            # It does not act, so what it holds that cannot be saved ends no step.
            with suppress(Exception):
                self._walk([attributes_of_callback(callback), slots_of(callback)], visited, lengths)

    def _walk(self, queue: list[Any], visited: set[int], lengths: dict[int, int]) -> None:
        while queue:
            thing = queue.pop()
            if isinstance(thing, _LEAF_TYPES) or id(thing) in visited:
                continue
            visited.add(id(thing))
            if isinstance(thing, _CLOSED_TYPES):
                continue
            if isinstance(thing, Tensor):
                self.tensors.append(thing)
                queue += _attributes_of_tensor(thing)
            elif isinstance(thing, _GENERATOR_TYPES):
                if (undo := undo_of_generator(thing)) is not None:
                    self.undo.append(undo)
            elif isinstance(thing, np.ndarray):
                if thing.dtype.hasobject:
                    queue += copy_array(thing).flat if thing.size <= self.max_items else ()
                if thing.flags.writeable and thing.nbytes <= self.max_array_bytes:
                    self.undo.append(partial(restore_array, thing, copy_array(thing)))
                if type(thing) is not np.ndarray:
                    queue += self._visit_object(thing)
            elif isinstance(thing, (dict, list, set, deque, tuple)):
                if not isinstance(thing, tuple):
                    self._save_container(thing, lengths)
                if len(thing) <= self.max_items:
                    queue += dict.values(thing) if isinstance(thing, dict) else thing
                if type(thing) not in _BUILT_IN_CONTAINERS:
                    queue += self._visit_object(thing)
            elif is_callback(thing):
                self._callbacks.append(thing)
                visited.discard(id(thing))
            elif type(thing) not in _empty_types and not (self._is_in_callback and not is_opened_in_callback(thing)):
                queue += self._visit_object(thing)

    def _visit_object(self, thing: Any) -> list[Any]:
        """The values that an object holds in its attributes and slots."""
        attributes, slots = attributes_of(thing), slots_of(thing)
        if slots:
            self.undo.append(partial(restore_slots, thing, slots))
        if attributes is None and not slots:
            if isinstance(thing, Iterator) and not isinstance(thing, io.IOBase):
                self.iterators += [] if self._is_in_callback else [type(thing).__name__]
            elif not _has_slots(type(thing)):
                _empty_types.add(type(thing))
        return [*([] if attributes is None else [attributes]), *slots.values()]

    def _save_container(self, container: Any, lengths: dict[int, int]) -> None:
        size = len(container)
        if isinstance(container, list) and size > _MAX_COPIED_LIST:
            start = self._lengths[id(container)] = lengths.get(id(container), size)
            self.undo.append(partial(restore_tail, container, start, container[start:]))
        elif isinstance(container, dict):
            if size <= _MAX_COPIED_ITEMS:
                self.undo.append(partial(restore_dict, container, items_of(container)))
        elif size <= _MAX_COPIED_ITEMS:
            self.undo.append(partial(restore_sequence, container, items_of_sequence(container)))


_BUILT_IN_CONTAINERS = {dict, list, set, deque, tuple}

# Types whose objects hold nothing to save.
_empty_types: set[type] = set()


def _attributes_of_tensor(tensor: Tensor) -> list[Any]:
    """The attributes of an object of a subclass of ``Tensor``."""
    attributes = object.__getattribute__(tensor, "__dict__")
    return [attributes] if attributes else []


def _has_slots(cls: type) -> bool:
    return any("__slots__" in vars(base) and base.__module__ != "builtins" for base in cls.__mro__)
