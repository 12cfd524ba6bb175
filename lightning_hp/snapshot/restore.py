"""Functions that restore one object in place.

Attributes, slots and items of containers are written only if they have changed: a write would invalidate compiled code
with guards on them. Tensors and arrays are always written.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_hp.functional.gradients import local_part


def restore_tensor(tensor: Tensor, saved: Tensor, requires_grad: bool, grad: Tensor | None) -> None:
    """Restores the values, ``requires_grad`` and ``.grad`` of a tensor, in the tensor's own memory."""
    local = local_part(tensor)
    if local.shape == saved.shape and local.dtype == saved.dtype and local.layout == saved.layout:
        local.detach().copy_(saved)
    else:  # `tensor.data` has been assigned
        tensor.data = saved.to(tensor.device, copy=True)
    if tensor.is_leaf:
        if tensor.requires_grad != requires_grad:
            tensor.requires_grad_(requires_grad)
        if tensor.grad is not grad:
            tensor.grad = grad


def restore_array(array: np.ndarray, saved: np.ndarray) -> None:
    """Restores the values of an array, in the array's own memory."""
    array[...] = saved


def restore_slots(thing: Any, saved: dict[str, Any]) -> None:
    """Restores the values in the ``__slots__`` of an object."""
    for name, value in saved.items():
        if getattr(thing, name, None) is not value:
            object.__setattr__(thing, name, value)


def restore_file(file: io.IOBase, position: int) -> None:
    """Restores the position of an open file."""
    if not file.closed:
        file.seek(position)


def restore_dict(target: dict[Any, Any], saved: dict[Any, Any]) -> None:
    """Restores the items of a dict and their order."""
    if len(target) == len(saved) and list(target) == list(saved):
        for key, value in saved.items():
            if target[key] is not value:
                target[key] = value
        return
    target.clear()
    target.update(saved)


def restore_sequence(target: Any, saved: list[Any]) -> None:
    """Restores the items of a list, deque or set."""
    if len(target) == len(saved) and all(a is b for a, b in zip(target, saved, strict=True)):
        return
    target.clear()
    target.update(saved) if isinstance(target, set) else target.extend(saved)


def is_expanded(tensor: Tensor) -> bool:
    """Whether several elements of a tensor share one memory location, so that torch refuses in-place writes."""
    return tensor.layout == torch.strided and any(
        stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )
