"""What a training step writes besides gradients, so that a second pass through the same step can be undone.

A whole snapshot would copy the weights in each step. Here small buffers (running statistics, which torch writes without
counting a version) are copied in any case, and of the other tensors those that the first pass wrote, as their version
counters tell, or a look at what is in them: metric states, a memory bank, a teacher's weights. Lists, dicts, counters
and generators that hang on the user's own modules and objects are remembered by identity, which costs microseconds.
"""

from __future__ import annotations

import io
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_hp.functional.gradients import local_part
from lightning_hp.second_pass.uncounted_writes import SilentWrites, place_of
from lightning_hp.snapshot import (
    attributes_of,
    is_expanded,
    put_back_array,
    put_back_dict,
    put_back_sequence,
    put_back_slots,
    slots_of,
    undo_of_stream,
)

# Elements of longer containers are not looked at one by one in each step, and longer dicts are not even copied.
_MAX_DESCEND = 100
_MAX_COPY = 10_000
_MAX_ARRAY_BYTES = 1 << 16
_SMALL_BYTES = 1 << 20

_PLAIN = (str, bytes, int, float, complex, bool, type(None), torch.device, torch.dtype, torch.Size, type)
_CLOSED = (nn.Module, DataLoader, Dataset, Sampler, nn.Parameter)  # modules are opened by themselves, see below
_STREAMS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
# What every module has, and what nothing writes while it trains.
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}


class SideEffects:
    """What one pass through ``module`` writes besides gradients, and how to take the next pass back.

    :meth:`before` notes what there is, :meth:`after` keeps what the pass has made of it, :meth:`replay` sets the
    module's own random streams to where they were before, and :meth:`put_back` makes everything what it was at
    :meth:`after`. Parameters are part of it only if the pass itself wrote them, in place.

    Args:
        module: The module. Layers that are added to it later are not known.
        trained: The parameters that the optimizer trains: who moves these cares for them.
        silent: Knows which of the others are written past their versions.

    """

    def __init__(self, module: nn.Module, trained: Iterable[Tensor], silent: SilentWrites) -> None:
        layers = list(module.modules())
        known = {id(t): t for t in (*module.parameters(), *module.buffers()) if not t.is_inference()}
        small = {id(buffer) for buffer in module.buffers() if _is_small(buffer)}
        self._known = set(known)
        self._small = [known[name] for name in known if name in small and not is_expanded(known[name])]
        self._watched = [known[name] for name in known if name not in small]
        moved = {id(parameter) for parameter in trained}
        # A teacher, a large queue.
        self._others = [tensor for tensor in self._watched if id(tensor) not in moved and not is_lazy(tensor)]
        self._silent = silent
        # A user's layer may register its first buffer in its first step.
        self._buffers = [layer._buffers for layer in layers if layer._buffers or not _is_torchs_own(type(layer))]
        self._owners = [vars(layer) for layer in layers if not _is_torchs_own(type(layer))]
        self.forget()

    def forget(self) -> None:
        """Lets go of everything that was kept."""
        self._versions: list[int] = []
        self._loose: dict[int, int] = {}
        self._begin: list[Callable[[], Any]] = []
        self._undo: list[Callable[[], Any]] = []
        self._kept: list[_Kept] = []
        self._silent.forget()

    def before(self) -> None:
        """Notes versions and streams, before the first pass."""
        loose, streams, _ = self._walk(keep=False)
        self._versions = [tensor._version for tensor in self._watched]
        self._loose = {id(tensor): tensor._version for tensor in loose}
        self._silent.before(self._others)
        self._begin = [undo for stream in streams if (undo := undo_of_stream(stream)) is not None]

    def after(self) -> None:
        """Keeps what the first pass left."""
        loose, streams, _ = self._walk(keep=True)
        self._undo += [undo for stream in streams if (undo := undo_of_stream(stream)) is not None]
        silent = self._silent.after(self._others)
        written = [t for t, version in zip(self._watched, self._versions, strict=True) if t._version != version]
        written += [tensor for tensor in loose if self._may_be_written(tensor)]
        self._kept = [_Kept(tensor, None) for tensor in self._small]
        self._kept += [_Kept(tensor, tensor._version) for tensor in written if id(tensor) not in silent]
        self._kept += [_Kept(tensor, None) for tensor in self._others if id(tensor) in silent]

    def one_way(self) -> list[str]:
        """Types of iterators on the module, which cannot be set back."""
        return self._walk(keep=False)[2]

    def replay(self) -> None:
        """Sets the module's own random streams to where the first pass began."""
        for undo in self._begin:
            undo()

    def put_back(self) -> None:
        """Makes everything what it was at :meth:`after`."""
        for undo in self._undo:
            undo()
        with torch.no_grad():
            for kept in self._kept:
                kept.put_back()
        self.forget()

    def _may_be_written(self, tensor: Tensor) -> bool:
        """Whether the second pass may write into it: as the first did, or since it is new and small and may be next."""
        if (tensor._base is not None and tensor._base.requires_grad) or tensor.grad_fn is not None:
            return False  # part of a graph
        before = self._loose.get(id(tensor))
        if before is None:
            return _is_small(tensor) and not is_expanded(tensor)
        return tensor._version != before

    def _walk(self, keep: bool) -> tuple[list[Tensor], list[Any], list[str]]:
        """Tensors (not yet known), random streams and iterators on the user's modules; keeps what containers hold."""
        tensors: list[Tensor] = []
        streams: list[Any] = []
        iterators: list[str] = []
        undo: list[Callable[[], Any]] = []
        seen: set[int] = set()
        open_: list[Any] = []
        for owner in self._owners:
            if keep:
                undo.append(partial(put_back_dict, owner, dict(owner)))
            open_ += [value for name, value in owner.items() if name not in _OF_EVERY_MODULE]
        for buffers in self._buffers:
            if keep:
                undo.append(partial(put_back_dict, buffers, dict(buffers)))
            tensors += [buffer for buffer in buffers.values() if buffer is not None]
        while open_:
            thing = open_.pop()
            if isinstance(thing, _PLAIN) or id(thing) in seen:
                continue
            seen.add(id(thing))
            if isinstance(thing, _CLOSED):
                continue
            if isinstance(thing, Tensor):
                tensors.append(thing)
            elif isinstance(thing, _STREAMS):
                streams.append(thing)
            elif isinstance(thing, np.ndarray):
                if keep and thing.flags.writeable and thing.nbytes <= _MAX_ARRAY_BYTES:
                    undo.append(partial(put_back_array, thing, thing.copy()))
            elif isinstance(thing, (dict, list, set, deque, tuple)):
                if keep and not isinstance(thing, tuple):
                    undo += _remember(thing)
                if len(thing) <= _MAX_DESCEND:
                    open_ += thing.values() if isinstance(thing, dict) else thing
            elif type(thing) not in _closed_types:
                attributes, slots = attributes_of(thing), slots_of(thing)
                if attributes is not None:
                    open_.append(attributes)
                if slots:
                    open_ += slots.values()
                    if keep:
                        undo.append(partial(put_back_slots, thing, slots))
                elif isinstance(thing, Iterator) and not isinstance(thing, io.IOBase) and attributes is None:
                    iterators.append(type(thing).__name__)
                elif attributes is None and not _has_slots(type(thing)):
                    _closed_types.add(type(thing))
        if keep:
            self._undo = undo
        return [t for t in tensors if id(t) not in self._known and not t.is_inference()], streams, iterators


def _remember(container: Any) -> Iterable[Callable[[], Any]]:
    """How to make a container hold what it holds now."""
    if len(container) > _MAX_COPY:
        return [partial(_cut, container, len(container))] if isinstance(container, list) else []
    if isinstance(container, dict):
        return [partial(put_back_dict, container, dict(container))]
    return [partial(put_back_sequence, container, list(container))]


def _cut(container: list[Any], length: int) -> None:
    """A long list can only have grown."""
    del container[length:]


def _is_small(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() <= _SMALL_BYTES


def _is_torchs_own(layer: type) -> bool:
    """Whether a module is of torch's own making; a user's class that FSDP2 has derived from is not."""
    return all(base.__module__.partition(".")[0] in ("torch", "builtins") for base in layer.__mro__)


# Classes whose objects have nothing to look into: remembered, since this runs in each step.
_closed_types: set[type] = set()


def _has_slots(cls: type) -> bool:
    return any("__slots__" in vars(base) and base.__module__ != "builtins" for base in cls.__mro__)


class _Kept:
    """What a tensor was, and how it gets there again."""

    def __init__(self, tensor: Tensor, version: int | None) -> None:
        """A ``version`` tells whether there has been a write; ``None``: it does not."""
        self._tensor, self._version = tensor, version
        self._memory = local_part(tensor).detach()
        self._place = place_of(tensor)
        self._value = self._memory.clone()

    def put_back(self) -> None:
        if self._version is not None and self._tensor._version == self._version:
            return  # to write is to spoil a graph that the user may have built on it
        if place_of(self._tensor) != self._place:  # `tensor.data = other`
            self._tensor.data = self._memory
        self._memory.copy_(self._value)
