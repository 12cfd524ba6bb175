"""Remember everything mutable that hangs on some objects, and put it back, bit for bit.

Pure torch, numpy and the standard library: this file does not know what a Trainer is.

A checkpoint is not enough to undo training steps: it forgets non-persistent buffers, ``.grad``, Python counters and
lists on the module, torchmetrics states, generators and samplers, and it travels through files and picklers that the
user's objects may not survive. So we walk the live object graph instead. *Containers and attributes* are remembered by
identity (which object was where), *tensors, arrays and random streams* by value, in host memory. Putting back writes
only what changed, so compiled code that guards on an attribute sees no difference.
"""

from __future__ import annotations

import copy
import io
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
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
from lightning_hp.snapshot.random_state import undo_of_stream
from lightning_hp.snapshot.restore import (
    is_expanded,
    put_back_array,
    put_back_dict,
    put_back_file,
    put_back_sequence,
    put_back_slots,
    put_back_tensor,
)

#: Containers longer than this are remembered shallowly: what is in them and in which order, not what is inside each
#: element. A dataset's million file names would otherwise be visited one by one.
MAX_DESCEND = 1000

#: Arrays of a dataset that are larger than this (bytes) are taken for its samples, which training does not write.
MAX_DATA_BYTES = 1 << 20

_Undo = Callable[[], Any]
_LEAVES: tuple[Any, ...] = (
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
_DATA_TYPES = (DataLoader, Dataset, Sampler)


class Snapshot:
    """The state of ``roots`` and of all that is reachable from them, kept in host memory.

    Modules, optimizers, schedulers, grad scalers, loaders, datasets, samplers, generators, built-in containers and
    objects of the user's own classes are opened; functions, locks, files, loggers and Lightning's own objects are not,
    unless they are a root. Arrays above 1 MiB that belong to a dataset count as its samples and are not copied.

    Args:
        *roots: Objects to remember. What they share is remembered once.
        data: More roots, whose large arrays are samples (loaders, a datamodule).

    Attributes:
        one_way: Names of iterators that were met and cannot be set back (a generator, say). What is drawn from them
            after this moment is lost.

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

    def __init__(self, *roots: Any, data: Iterable[Any] = ()) -> None:
        self.one_way: list[str] = []
        self._undo: list[_Undo] = []
        # `_alive` keeps every visited object referenced: an id is a name only as long as its object lives.
        self._alive: dict[int, Any] = {}
        self._queue: deque[tuple[Any, str, bool]] = deque()
        for root in roots:
            self._open(root, type(root).__name__, is_data=isinstance(root, _DATA_TYPES))
        for root in data:
            self._open(root, type(root).__name__, is_data=True)
        while self._queue:
            self._visit(*self._queue.popleft())

    def restore(self) -> None:
        """Puts every remembered object back into the state it had. Can be called any number of times."""
        with torch.no_grad():
            for undo in self._undo:
                undo()

    def _open(self, root: Any, path: str, is_data: bool) -> None:
        """A root is opened whatever its class: the caller named it."""
        self._queue.append((root, path, is_data))
        if attributes_of(root) is None and isinstance(getattr(root, "__dict__", None), dict):
            self._queue.append((vars(root), path, is_data))

    def _visit(self, thing: Any, path: str, is_data: bool) -> None:
        if isinstance(thing, _LEAVES) or id(thing) in self._alive:
            return
        self._alive[id(thing)] = thing
        if isinstance(thing, Tensor):
            self._visit_tensor(thing, path, is_data)
        elif isinstance(thing, np.ndarray):
            self._visit_array(thing, is_data)
        elif (undo := undo_of_stream(thing)) is not None:
            self._undo.append(undo)
        elif isinstance(thing, dict):
            self._undo.append(partial(put_back_dict, thing, dict(thing)))
            if len(thing) <= MAX_DESCEND:
                for key, value in list(thing.items()):
                    self._queue.append((key, path, is_data))
                    self._queue.append((value, f"{path}.{key}", is_data))
        elif isinstance(thing, (list, set, deque, tuple, frozenset)):
            if not isinstance(thing, (tuple, frozenset)):
                self._undo.append(partial(put_back_sequence, thing, list(thing)))
            if len(thing) <= MAX_DESCEND:
                self._queue.extend((item, path, is_data) for item in list(thing))
        else:
            self._visit_object(thing, path, is_data)

    def _visit_tensor(self, tensor: Tensor, path: str, is_data: bool) -> None:
        if (
            isinstance(tensor, (UninitializedParameter, UninitializedBuffer))
            or tensor.is_meta
            or tensor.is_inference()
            or (is_data and _bytes(tensor) > MAX_DATA_BYTES)
        ):
            return  # without values; not to be written outside inference mode; samples
        local = local_part(tensor)
        if is_expanded(local):
            return
        grad = tensor.grad if tensor.is_leaf else None
        self._undo.append(partial(put_back_tensor, tensor, _to_host(local), tensor.requires_grad, grad))
        if grad is not None:
            self._queue.append((grad, f"{path}.grad", is_data))

    def _visit_array(self, array: np.ndarray, is_data: bool) -> None:
        if array.flags.writeable and not (is_data and array.nbytes > MAX_DATA_BYTES):
            self._undo.append(partial(put_back_array, array, array.copy()))

    def _visit_object(self, thing: Any, path: str, is_data: bool) -> None:
        if isinstance(thing, io.IOBase):
            self._visit_file(thing, path)
            return
        if isinstance(thing, DataLoader):
            # A living iterator of persistent workers is not ours to judge: a rehearsal draws from a loader of its own.
            self._alive[id(thing._iterator)] = thing._iterator
        attributes, slots = attributes_of(thing), slots_of(thing)
        is_data = is_data or isinstance(thing, _DATA_TYPES)
        if attributes is None and not slots and isinstance(thing, Iterator):
            self.one_way.append(f"{path} ({type(thing).__name__})")
        elif is_data and attributes is not None and _is_stateful(thing):
            self._visit_stateful(thing, attributes)
        elif attributes is not None:
            self._queue.append((attributes, path, is_data))
        if slots:
            self._undo.append(partial(put_back_slots, thing, slots))
            self._queue.extend((value, f"{path}.{name}", is_data) for name, value in slots.items())

    def _visit_stateful(self, thing: Any, attributes: dict[str, Any]) -> None:
        """A data source with ``state_dict``: its own way back is needed only where its attributes are not enough."""
        inner = Snapshot(data=[attributes])
        self._undo.append(inner.restore)
        if inner.one_way:
            self._undo.append(partial(thing.load_state_dict, copy.deepcopy(thing.state_dict())))

    def _visit_file(self, file: io.IOBase, path: str) -> None:
        """A file that is read while training is set back to where it stood; a pipe cannot be."""
        if file.closed or not file.readable():
            return
        if file.seekable():
            self._undo.append(partial(put_back_file, file, file.tell()))
        else:
            self.one_way.append(f"{path} ({type(file).__name__})")


def _is_stateful(thing: Any) -> bool:
    if isinstance(thing, (nn.Module, Optimizer, DataLoader)):
        return False
    return callable(getattr(thing, "state_dict", None)) and callable(getattr(thing, "load_state_dict", None))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _to_host(tensor: Tensor) -> Tensor:
    detached = tensor.detach()
    return detached.clone() if detached.device.type == "cpu" else detached.cpu()
