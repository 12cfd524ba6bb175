"""Saves everything mutable that can be reached from some objects, and restores it bit for bit.

A checkpoint is not enough to undo training steps: it lacks non-persistent buffers, ``.grad``, Python counters and lists
on the module, torchmetrics states, generators and samplers, and it needs files and pickling, which the user's objects
may not support. A snapshot walks the object graph instead. Containers and attributes are saved by identity (which
object was where), tensors, arrays and random generators by value, in host memory. Restoring writes only what has
changed, so that compiled code with guards on an attribute stays valid.

``second_pass.reachable`` has a walk of its own, since it runs twice in each step of SAM: it does not open modules,
optimizers or datasets, copies no tensor, and tracks no paths. What both share is in ``attributes`` and ``restore``.
"""

from __future__ import annotations

import copy
import io
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_hp.functional.gradients import local_part
from lightning_hp.snapshot.attributes import attributes_of, slots_of
from lightning_hp.snapshot.callbacks import (
    attributes_of_callback,
    is_callback,
    is_opened_in_callback,
    running_callbacks,
)
from lightning_hp.snapshot.host_memory import HostCopies
from lightning_hp.snapshot.plain_operations import plain_operations
from lightning_hp.snapshot.random_state import undo_of_generator
from lightning_hp.snapshot.restore import (
    copy_array,
    is_expanded,
    items_of,
    items_of_sequence,
    restore_array,
    restore_dict,
    restore_file,
    restore_sequence,
    restore_slots,
    restore_tensor,
)

#: Of longer containers only the items and their order are saved, not what the items hold: a dataset's list of a million
#: file names would otherwise be visited name by name.
MAX_DESCEND = 1000

#: Larger arrays and tensors of a dataset (in bytes) count as its samples, which training does not write.
MAX_DATA_BYTES = 1 << 20

_Undo = Callable[[], Any]
_LEAF_TYPES: tuple[Any, ...] = (
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    type(None),
    torch.device,
    torch.dtype,
    torch.Size,
    type,
    *weakref.ProxyTypes,
)
_BUILT_IN_CONTAINERS = (dict, list, set, deque, tuple, frozenset)
_DATA_TYPES = (DataLoader, Dataset, Sampler)


class Snapshot:
    """The state of some objects and of everything that can be reached from them, in host memory.

    Modules, optimizers, schedulers, grad scalers, loaders, datasets, samplers, random generators, built-in containers
    and objects of the user's own classes are visited with all they hold. Of an open file the position is saved.
    Functions, locks, loggers and Lightning's own objects are not visited, unless they are a root. Callbacks that
    are no root are visited after all others: their files, iterators and objects of installed packages stay as they are,
    and so does a callback with a thread that runs, or whose own hook takes the snapshot.

    Args:
        *roots: Objects to save.
        data: More roots, whose arrays and tensors above 1 MiB are samples and not copied (loaders, a datamodule).
        callbacks: Callbacks that are saved as those that the roots hold.
        earlier: A snapshot whose copies of tensors that have not changed since are shared.
        set_aside: Tensors from which the caller removes ``.grad`` before anything can write to it: it is restored as
            the same object, without a copy of its values.

    Attributes:
        unrestorable: Paths and types of iterators, generators and pipes, whose position cannot be restored.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> layer.seen = [1, 2]
        >>> before = layer.weight.clone()
        >>> snapshot = Snapshot(layer)
        >>> layer.seen.append(3)
        >>> _ = torch.nn.init.zeros_(layer.weight)
        >>> snapshot.restore()
        >>> layer.seen, torch.equal(layer.weight, before)
        ([1, 2], True)

    """

    def __init__(
        self,
        *roots: Any,
        data: Iterable[Any] = (),
        callbacks: Iterable[Any] = (),
        earlier: Snapshot | None = None,
        set_aside: Iterable[Tensor] = (),
    ) -> None:
        self._set_aside = frozenset(map(id, set_aside))
        self._host = HostCopies()
        self.unrestorable: list[str] = []
        self._values: dict[int, Tensor] = {}  # the copy of each tensor, by the tensor's id
        self._earlier = {} if earlier is None else earlier._values
        self._undo: list[_Undo] = []
        # The objects are kept so that no other object gets one of these ids.
        self._visited: dict[int, Any] = {}
        self._queue: deque[tuple[Any, str, bool]] = deque()
        for root in roots:
            self._add_root(root, type(root).__name__, is_data=isinstance(root, _DATA_TYPES))
        for root in data:
            self._add_root(root, type(root).__name__, is_data=True)
        self._is_in_callback = False
        self._callbacks: deque[Any] = deque()  # those that were found
        while self._queue:
            self._visit(*self._queue.popleft())
        self._callbacks.extend(filter(is_callback, callbacks))
        self._is_in_callback, running = True, set(map(id, running_callbacks()))
        while self._callbacks:
            if id(callback := self._callbacks.popleft()) not in running:
                self._visit_callback(callback)
        self._host.wait()

    def restore(self) -> None:
        """Restores every saved object. Can be called any number of times."""
        with torch.no_grad(), plain_operations():
            for undo in self._undo:
                undo()

    def _add_root(self, root: Any, path: str, is_data: bool) -> None:
        """Queues a root and its attributes, whatever its class."""
        self._queue.append((root, path, is_data))
        if attributes_of(root) is None and isinstance(getattr(root, "__dict__", None), dict):
            self._queue.append((vars(root), path, is_data))

    def _visit_callback(self, callback: Any) -> None:
        attributes, path = attributes_of_callback(callback), type(callback).__name__
        if attributes is None:
            return
        self._queue.append((attributes, path, False))
        self._visit_slots(callback, path, is_data=False)
        while self._queue:
            # It does not act, so what it holds that cannot be saved refuses no search.
            with suppress(Exception):
                self._visit(*self._queue.popleft())

    def _visit(self, thing: Any, path: str, is_data: bool) -> None:
        if isinstance(thing, _LEAF_TYPES) or id(thing) in self._visited:
            return
        self._visited[id(thing)] = thing
        if isinstance(thing, Tensor):
            with plain_operations():
                self._visit_tensor(thing, path, is_data)
            self._queue.append((object.__getattribute__(thing, "__dict__"), path, is_data))
        elif isinstance(thing, np.ndarray):
            self._visit_array(thing, path, is_data)
        elif (undo := undo_of_generator(thing)) is not None:
            self._undo.append(undo)
        elif isinstance(thing, dict):
            self._undo.append(partial(restore_dict, thing, items_of(thing)))
            if dict.__len__(thing) <= MAX_DESCEND:
                for key, value in items_of(thing).items():
                    self._queue.append((key, path, is_data))
                    self._queue.append((value, f"{path}.{key}", is_data))
            self._visit_attributes(thing, path, is_data)
        elif isinstance(thing, (list, set, deque, tuple, frozenset)):
            if isinstance(thing, (tuple, frozenset)):
                items = list(thing)
            else:
                items = items_of_sequence(thing)
                self._undo.append(partial(restore_sequence, thing, items))
            if len(items) <= MAX_DESCEND:
                self._queue.extend((item, path, is_data) for item in items)
            self._visit_attributes(thing, path, is_data)
        else:
            self._visit_object(thing, path, is_data)

    def _visit_tensor(self, tensor: Tensor, path: str, is_data: bool) -> None:
        if (
            isinstance(tensor, (UninitializedParameter, UninitializedBuffer))
            or tensor.is_meta
            or tensor.is_inference()
            or (is_data and _bytes(tensor) > MAX_DATA_BYTES)
        ):
            return  # it has no values, cannot be written outside inference mode, or is a sample
        local = local_part(tensor)
        if is_expanded(local):
            return
        grad = tensor.grad if tensor.is_leaf else None
        values = self._host.copy(local)
        same = self._earlier.get(id(tensor))
        if same is not None:
            self._host.wait()
            values = same if _are_equal(same, values) else values
        self._values[id(tensor)] = values
        self._undo.append(partial(restore_tensor, tensor, values, tensor.requires_grad, grad))
        if grad is not None and id(tensor) not in self._set_aside:
            self._queue.append((grad, f"{path}.grad", is_data))

    def _visit_array(self, array: np.ndarray, path: str, is_data: bool) -> None:
        if array.flags.writeable and not (is_data and array.nbytes > MAX_DATA_BYTES):
            self._undo.append(partial(restore_array, array, copy_array(array)))
        if array.dtype.hasobject and array.size <= MAX_DESCEND:
            self._queue.extend((item, path, is_data) for item in copy_array(array).flat)
        self._visit_attributes(array, path, is_data)

    def _visit_attributes(self, thing: Any, path: str, is_data: bool) -> None:
        """Visits the attributes that a user's subclass of a container or an array adds to its items."""
        if type(thing) in _BUILT_IN_CONTAINERS:
            return
        if (attributes := attributes_of(thing)) is not None:
            self._queue.append((attributes, path, is_data))
        self._visit_slots(thing, path, is_data)

    def _visit_slots(self, thing: Any, path: str, is_data: bool) -> None:
        if slots := slots_of(thing):
            self._undo.append(partial(restore_slots, thing, slots))
            self._queue.extend((value, f"{path}.{name}", is_data) for name, value in slots.items())

    def _visit_object(self, thing: Any, path: str, is_data: bool) -> None:
        if is_callback(thing):
            self._callbacks.append(thing)
            return
        if self._is_in_callback and (isinstance(thing, io.IOBase) or not is_opened_in_callback(thing)):
            return
        if isinstance(thing, io.IOBase):
            self._visit_file(thing, path)
            return
        if isinstance(thing, DataLoader):
            # The iterator of persistent workers is not unrestorable: a rehearsal draws from a copy of the loader.
            self._visited[id(thing._iterator)] = thing._iterator
        attributes = attributes_of(thing)
        is_data = is_data or isinstance(thing, _DATA_TYPES)
        if attributes is None and isinstance(thing, Iterator) and not slots_of(thing):
            if not self._is_in_callback:
                self.unrestorable.append(f"{path} ({type(thing).__name__})")
        elif is_data and not self._is_in_callback and attributes is not None and _is_stateful(thing):
            self._visit_stateful(thing, attributes)
        elif attributes is not None:
            self._queue.append((attributes, path, is_data))
        self._visit_slots(thing, path, is_data)

    def _visit_stateful(self, thing: Any, attributes: dict[str, Any]) -> None:
        """Saves the ``state_dict`` of a data source too, if its attributes cannot be restored completely."""
        inner = Snapshot(data=[attributes])
        self._undo.append(inner.restore)
        if inner.unrestorable:
            self._undo.append(partial(thing.load_state_dict, copy.deepcopy(thing.state_dict())))

    def _visit_file(self, file: io.IOBase, path: str) -> None:
        """Saves the position of a file that is open for reading; a pipe has none."""
        if file.closed or not file.readable():
            return
        if file.seekable():
            self._undo.append(partial(restore_file, file, file.tell()))
        else:
            self.unrestorable.append(f"{path} ({type(file).__name__})")


def _is_stateful(thing: Any) -> bool:
    if isinstance(thing, (nn.Module, Optimizer, DataLoader)):
        return False
    return callable(getattr(thing, "state_dict", None)) and callable(getattr(thing, "load_state_dict", None))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _are_equal(left: Tensor, right: Tensor) -> bool:
    is_alike = left.dtype == right.dtype and left.layout == right.layout == torch.strided
    return is_alike and torch.equal(left, right)
