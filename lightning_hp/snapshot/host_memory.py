"""Copies of tensors in host memory; of large ones on CUDA in page-locked memory, which the device reads and writes."""

from __future__ import annotations

import torch
from torch import Tensor

#: Smaller tensors are copied to ordinary memory: locking a page takes longer than copying it.
MIN_LOCKED_BYTES = 1 << 20

#: At most this much memory is locked, which the system can then neither move nor swap.
MAX_LOCKED_BYTES = 4 << 30


class HostCopies:
    """Copies tensors to host memory, on CUDA without waiting for each of them.

    Note:
        A copy from or to ordinary memory goes through a buffer of the driver, at a fraction of the bandwidth. Torch
        keeps page-locked memory for its next use, after the copies are gone.

    """

    def __init__(self) -> None:
        self._locked_bytes = 0
        self._devices: set[torch.device] = set()  # on which copies are still running

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy whose values are complete after :meth:`wait`."""
        tensor = tensor.detach()
        if tensor.device.type == "cpu":
            return tensor.clone()
        size = tensor.numel() * tensor.element_size()
        if not MIN_LOCKED_BYTES <= size <= MAX_LOCKED_BYTES - self._locked_bytes or not _may_be_locked(tensor):
            return tensor.cpu()
        copy = _locked_memory_like(tensor)
        if copy is None:
            return tensor.cpu()
        self._locked_bytes += size
        self._devices.add(tensor.device)
        return copy.copy_(tensor, non_blocking=True)

    def wait(self) -> None:
        """Waits until the values of all copies are complete."""
        for device in self._devices:
            torch.cuda.current_stream(device).synchronize()
        self._devices.clear()


def _may_be_locked(tensor: Tensor) -> bool:
    return tensor.device.type == "cuda" and tensor.layout == torch.strided and not tensor.is_quantized


def _locked_memory_like(tensor: Tensor) -> Tensor | None:
    """Page-locked memory; ``None`` if the system gives no more of it."""
    try:
        return torch.empty_like(tensor, device="cpu", pin_memory=True)
    except RuntimeError:
        return None
