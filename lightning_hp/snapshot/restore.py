"""Functions that restore one object in place.

Attributes, slots and items of containers are written only if they have changed: a write would invalidate compiled code
with guards on them. Tensors and arrays are always written.
"""

from __future__ import annotations

import io
import operator
from collections import OrderedDict, deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_hp.functional.gradients import local_part


def restore_tensor(tensor: Tensor, saved: Tensor, requires_grad: bool, grad: Tensor | None) -> None:
    """Restores the values, ``requires_grad`` and ``.grad`` of a tensor, in the tensor's own memory."""
    local = local_part(tensor)
    if local.shape == saved.shape and local.dtype == saved.dtype and local.layout == saved.layout:
        # CUDA reads page-locked memory while the host goes on; the copy that is saved is not written.
        local.detach().copy_(saved, non_blocking=local.device.type == "cuda")
    else:  # `tensor.data` has been assigned
        tensor.data = saved.to(tensor.device, copy=True)
    if tensor.is_leaf:
        if tensor.requires_grad != requires_grad:
            tensor.requires_grad_(requires_grad)
        if tensor.grad is not grad:
            tensor.grad = grad


def restore_array(array: np.ndarray, saved: np.ndarray) -> None:
    """Restores the values of an array, in the array's own memory."""
    np.ndarray.view(array, np.ndarray)[...] = saved


def copy_array(array: np.ndarray) -> np.ndarray:
    """The values of an array as an array of no subclass."""
    return np.ndarray.view(array, np.ndarray).copy()


def restore_slots(thing: Any, saved: dict[str, Any]) -> None:
    """Restores the values in the ``__slots__`` of an object."""
    for name, value in saved.items():
        if getattr(thing, name, None) is not value:
            object.__setattr__(thing, name, value)


def restore_file(file: io.IOBase, position: int) -> None:
    """Restores the position of an open file."""
    if not file.closed:
        file.seek(position)


def items_of(target: dict[Any, Any]) -> dict[Any, Any]:
    """The items of a dict as a plain dict, whatever methods a subclass has overridden."""
    return dict(_kind_of(target).items(target))


def restore_dict(target: dict[Any, Any], saved: dict[Any, Any]) -> None:
    """Restores the items of a dict and their order."""
    kind = _kind_of(target)  # a subclass may refuse to be written, or write something else
    if kind.__len__(target) == len(saved) and list(kind.keys(target)) == list(saved):
        for key, value in saved.items():
            if kind.__getitem__(target, key) is not value:
                kind.__setitem__(target, key, value)
        return
    kind.clear(target)
    for key, value in saved.items():
        kind.__setitem__(target, key, value)


def items_of_sequence(target: Any) -> list[Any]:
    """The items of a list, deque or set, whatever methods a subclass has overridden."""
    return list(_kind_of_sequence(target).__iter__(target))


def restore_sequence(target: Any, saved: list[Any]) -> None:
    """Restores the items of a list, deque or set."""
    kind = _kind_of_sequence(target)
    if kind.__len__(target) == len(saved) and all(map(operator.is_, kind.__iter__(target), saved)):
        return
    kind.clear(target)
    (kind.update if kind is set else kind.extend)(target, saved)


def restore_tail(target: list[Any], start: int, tail: list[Any]) -> None:
    """Restores the items of a list from ``start`` on, under the assumption that those before are unchanged."""
    if len(target) != start or tail:
        list.__setitem__(target, slice(start, None), tail)


def _kind_of(target: dict[Any, Any]) -> type[dict[Any, Any]]:
    return OrderedDict if isinstance(target, OrderedDict) else dict


def _kind_of_sequence(target: Any) -> Any:
    return next(kind for kind in (list, deque, set) if isinstance(target, kind))


def is_expanded(tensor: Tensor) -> bool:
    """Whether several elements of a tensor share one memory location, so that torch refuses in-place writes."""
    return tensor.layout == torch.strided and any(
        stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )
