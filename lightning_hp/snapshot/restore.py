"""Makes things hold what they held, and writes only where they do not."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_hp.functional.gradients import local_part


def put_back_tensor(tensor: Tensor, saved: Tensor, requires_grad: bool, grad: Tensor | None) -> None:
    """Copies the values into the tensor's own memory; its gradient is the object that it was."""
    local = local_part(tensor)
    if local.shape == saved.shape and local.dtype == saved.dtype and local.layout == saved.layout:
        local.detach().copy_(saved)
    else:  # somebody gave the tensor other memory
        tensor.data = saved.to(tensor.device, copy=True)
    if tensor.is_leaf:
        if tensor.requires_grad != requires_grad:
            tensor.requires_grad_(requires_grad)
        if tensor.grad is not grad:
            tensor.grad = grad


def put_back_array(array: np.ndarray, saved: np.ndarray) -> None:
    """Copies the values into the array's own memory."""
    array[...] = saved


def put_back_slots(thing: Any, saved: dict[str, Any]) -> None:
    """Makes the ``__slots__`` of an object hold what they held."""
    for name, value in saved.items():
        if getattr(thing, name, None) is not value:
            object.__setattr__(thing, name, value)


def put_back_file(file: io.IOBase, position: int) -> None:
    """Sets an open file back to where it stood."""
    if not file.closed:
        file.seek(position)


def put_back_dict(live: dict[Any, Any], saved: dict[Any, Any]) -> None:
    """Makes ``live`` hold what ``saved`` holds, in its order, and writes nothing where it does."""
    if len(live) == len(saved) and list(live) == list(saved):
        for key, value in saved.items():
            if live[key] is not value:
                live[key] = value
        return
    live.clear()
    live.update(saved)


def put_back_sequence(live: Any, saved: list[Any]) -> None:
    """Makes a list, deque or set hold what it held."""
    if len(live) == len(saved) and all(a is b for a, b in zip(live, saved, strict=True)):
        return
    live.clear()
    live.update(saved) if isinstance(live, set) else live.extend(saved)


def is_expanded(tensor: Tensor) -> bool:
    """Whether several of its places share one memory: nobody can write into it."""
    return tensor.layout == torch.strided and any(
        stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )
