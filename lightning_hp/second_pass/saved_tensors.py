"""The values of tensors at one moment of a training step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_hp.functional.gradients import local_part
from lightning_hp.snapshot import has_memory


class SavedTensors:
    """The values and the memory of some tensors.

    Args:
        tensors: The tensors.
        in_host_memory: Whether the values are kept in host memory, where there is more of it.

    """

    def __init__(self, tensors: Iterable[Tensor] = (), *, in_host_memory: bool = False) -> None:
        self.tensors = list(tensors)
        # Without the graph and the count of writes: a graph on a tensor that is restored stays valid.
        self._memory = [local_part(tensor).data for tensor in self.tensors]
        if in_host_memory:
            self._values = [memory.to("cpu", copy=True) for memory in self._memory]
        else:
            self._values = _copies_of(self._memory)

    def restore(self) -> None:
        """Restores the values, in the same memory."""
        for tensor, memory in zip(self.tensors, self._memory, strict=True):
            if address_of(tensor) not in (0, memory.data_ptr()):  # `tensor.data` has been assigned
                tensor.data = memory
        _copy(self._memory, self._values)

    def keep(self, ids: set[int]) -> None:
        """Deletes what was saved of all other tensors than those with these ids."""
        kept = [position for position, tensor in enumerate(self.tensors) if id(tensor) in ids]
        self.tensors, self._memory, self._values = (
            [values[position] for position in kept] for values in (self.tensors, self._memory, self._values)
        )


def address_of(tensor: Tensor) -> int:
    """The address of a dense tensor's memory; 0 for a tensor without memory of its own (sparse, sharded, wrapped)."""
    return tensor.data_ptr() if tensor.layout == torch.strided and has_memory(tensor) else 0


def _copies_of(tensors: list[Tensor]) -> list[Tensor]:
    """Copies in memory of the same layout, with few kernels: a network may have hundreds of small buffers."""
    is_plain = [tensor.layout == torch.strided and not tensor.is_quantized and has_memory(tensor) for tensor in tensors]
    copies = [
        torch.empty_like(tensor) if plain else tensor.clone() for tensor, plain in zip(tensors, is_plain, strict=True)
    ]
    pairs = [pair for *pair, plain in zip(copies, tensors, is_plain, strict=True) if plain]
    _copy([copy for copy, _ in pairs], [tensor for _, tensor in pairs])
    return copies


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copies tensors with one kernel for each dtype and device; torch copies a mixture of them one by one."""
    groups: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        group = groups.setdefault((target.dtype, target.device), ([], []))
        group[0].append(target)
        group[1].append(source)
    for group in groups.values():
        torch._foreach_copy_(*group)
