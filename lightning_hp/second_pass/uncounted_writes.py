"""Detection of writes that torch does not count: ``tensor.data.mul_(0.9)``, ``tensor.data = other``, NumPy views.

Torch counts in-place writes in a tensor's version, but not those through ``.data`` or memory shared with an array. A
training step with such writes makes them every time it runs. A fingerprint of all bits, which needs no copy of the
tensor, is therefore compared before and after the first steps only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_hp.functional.gradients import local_part

#: Number of steps in which fingerprints are compared. A write that begins later is not detected.
FINGERPRINTED_STEPS = 2

_CHUNK_ELEMENTS = 1 << 20
_INTEGER_TYPES = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class UncountedWrites:
    """Which tensors a step writes without a change of their versions.

    What was found stays from step to step, so the object should exist as long as the training.

    Example:
        >>> tensor, writes = torch.zeros(3), UncountedWrites()
        >>> writes.begin_step([tensor])
        >>> _ = tensor.data.add_(1)
        >>> writes.end_step([tensor]) == {id(tensor)}
        True

    """

    def __init__(self) -> None:
        # The tensor is kept so that no other object gets its id.
        self._num_checks: dict[int, tuple[Tensor, int]] = {}
        self._found: set[int] = set()
        self.clear_step()

    def clear_step(self) -> None:
        """Deletes what is kept of the present step; what was found stays."""
        self._addresses: dict[int, int] = {}
        self._fingerprints: dict[int, int] = {}

    def begin_step(self, tensors: Sequence[Tensor]) -> None:
        """Saves the addresses of the tensors and, in the first steps, their fingerprints."""
        self._addresses = {id(tensor): address_of(tensor) for tensor in tensors}
        new = [tensor for tensor in tensors if self._num_checks.get(id(tensor), (None, 0))[1] < FINGERPRINTED_STEPS]
        self._fingerprints = dict(zip(map(id, new), fingerprints(new), strict=True))

    def end_step(self, tensors: Sequence[Tensor]) -> set[int]:
        """The ids of the tensors that were written or moved to other memory, in this step or an earlier one."""
        checked = [tensor for tensor in tensors if id(tensor) in self._fingerprints]
        for tensor, fingerprint in zip(checked, fingerprints(checked), strict=True):
            self._num_checks[id(tensor)] = (tensor, self._num_checks.get(id(tensor), (None, 0))[1] + 1)
            if fingerprint != self._fingerprints[id(tensor)]:
                self._found.add(id(tensor))
        addresses = self._addresses
        moved = {id(t) for t in tensors if id(t) in addresses and address_of(t) != addresses[id(t)]}
        return moved | {id(tensor) for tensor in tensors if id(tensor) in self._found}


def address_of(tensor: Tensor) -> int:
    """The address of a dense tensor's memory; 0 for a tensor without memory of its own (sparse, sharded)."""
    return tensor.data_ptr() if tensor.layout == torch.strided and local_part(tensor) is tensor else 0


@torch.no_grad()
def fingerprints(tensors: Sequence[Tensor]) -> list[int]:
    """An integer for each tensor that depends on its bits and their order. Synchronizes once with an accelerator."""
    sums = [_fingerprint(local_part(tensor).detach()) for tensor in tensors]
    by_device: dict[torch.device, list[int]] = {}
    for position, total in enumerate(sums):
        by_device.setdefault(total.device, []).append(position)
    result = [0] * len(sums)
    for positions in by_device.values():
        for position, value in zip(positions, torch.stack([sums[p] for p in positions]).tolist(), strict=True):
            result[position] = value
    return result


def _fingerprint(tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_meta:
        return torch.zeros((), dtype=torch.int64)
    bits = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor.resolve_neg()
    integers = bits.reshape(-1).view(_INTEGER_TYPES[bits.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    # Each position has a weight, so that a permutation changes the sum, too. An overflow wraps around.
    weights = torch.arange(min(len(integers), _CHUNK_ELEMENTS), device=tensor.device) * 2654435761 + 1
    for chunk in torch.split(integers, _CHUNK_ELEMENTS):
        total = total * 31 + (chunk.to(torch.int64) * weights[: len(chunk)]).sum()
    return total
