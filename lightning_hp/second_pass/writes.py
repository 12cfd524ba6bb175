"""Which large tensors a training step writes, and their values before the step.

Torch counts in-place writes in a tensor's version, but not those through ``.data`` or memory shared with an array
(``tensor.data.mul_(0.9)``, ``tensor.data = other``, NumPy views). A training step with such writes makes them every
time it runs. A fingerprint of all bits, which needs no copy of the tensor, is therefore compared before and after the
first steps only.

The values before a step would need a copy of all weights in every step. All are copied in the first steps, to host
memory, and from then on only those that a step has written.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_hp.functional.gradients import local_part
from lightning_hp.second_pass.saved_tensors import SavedTensors, address_of
from lightning_hp.snapshot import has_memory, plain_operations

#: Number of steps in which fingerprints are compared. An uncounted write that begins later is not detected.
FINGERPRINTED_STEPS = 2

_CHUNK_ELEMENTS = 1 << 20
_INTEGER_TYPES = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Writes:
    """Which large tensors the steps of a training write; before each step their values are saved.

    What was found stays from step to step, so the object should exist as long as the training. A tensor that is first
    written later than in the first step (one that is not trained: the second) has no values saved in that step.

    Example:
        >>> queue, frozen, writes = torch.zeros(3), torch.ones(3), Writes()
        >>> writes.begin_step([queue, frozen], trained=[])
        >>> _ = queue.data.add_(1)
        >>> [tensor is queue for tensor in writes.end_step()]
        [True]
        >>> writes.rewind()
        >>> queue
        tensor([0., 0., 0.])

    """

    def __init__(self) -> None:
        self._num_steps = 0
        # The tensors that were written, by their ids; the reference shows whether another tensor has got the id.
        self._written: dict[int, weakref.ref[Tensor]] = {}
        self.clear_step()

    def clear_step(self) -> None:
        """Deletes what is kept of the present step; what was found stays."""
        self._tensors: list[Tensor] = []
        self._versions: list[int] = []
        self._addresses: list[int] = []
        self._fingerprints: list[int] = []
        self._before: list[SavedTensors] = []

    def begin_step(self, untrained: Sequence[Tensor], trained: Sequence[Tensor]) -> None:
        """Saves versions, addresses and, in the first steps, fingerprints; and the values of what steps write.

        Args:
            untrained: Tensors that the optimizer does not train.
            trained: Tensors that it trains.

        """
        self._tensors = [*untrained, *trained]
        self._versions = [tensor._version for tensor in self._tensors]
        self._addresses = [address_of(tensor) for tensor in untrained]
        is_checked = self._num_steps < FINGERPRINTED_STEPS
        self._fingerprints = fingerprints(self._tensors) if is_checked else []
        copied = [*(untrained if is_checked else ()), *(trained if self._num_steps == 0 else ())]
        self._before = [SavedTensors(copied, in_host_memory=True)]
        if self._written:
            ids = set(map(id, copied))
            known = [tensor for tensor in self._tensors if self._is_written(tensor) and id(tensor) not in ids]
            self._before.append(SavedTensors(known))
        self._num_steps += 1

    def end_step(self) -> list[Tensor]:
        """The tensors that were written or moved to other memory, in this step or, without a count, in an earlier one.

        Of all others the saved values are deleted.
        """
        written = [t for t, version in zip(self._tensors, self._versions, strict=True) if t._version != version]
        moved = zip(self._tensors, self._addresses, strict=False)  # the untrained tensors come first
        written += [tensor for tensor, address in moved if address_of(tensor) != address]
        if self._fingerprints:
            checked = zip(self._tensors, self._fingerprints, fingerprints(self._tensors), strict=True)
            written += [tensor for tensor, before, after in checked if before != after]
        if written:
            alive = {key: reference for key, reference in self._written.items() if reference() is not None}
            self._written = alive | {id(tensor): weakref.ref(tensor) for tensor in written}
        found = [tensor for tensor in self._tensors if self._is_written(tensor)] if self._written else []
        ids = set(map(id, found))
        for saved in self._before:
            saved.keep(ids)
        return found

    def rewind(self) -> None:
        """Restores what the step has written to its values before the step."""
        for saved in self._before:
            saved.restore()

    def _is_written(self, tensor: Tensor) -> bool:
        reference = self._written.get(id(tensor))
        return reference is not None and reference() is tensor


@torch.no_grad()
def fingerprints(tensors: Sequence[Tensor]) -> list[int]:
    """An integer for each tensor that depends on its bits and their order. Synchronizes once with an accelerator.

    It is 0 for a tensor of which the bits cannot be read: a sparse, nested, quantized or wrapping one.
    """
    with plain_operations():
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
    if (
        tensor.layout != torch.strided
        or not has_memory(tensor)
        or tensor.is_nested
        or tensor.is_quantized
        or tensor.is_meta
    ):
        return torch.zeros((), dtype=torch.int64)
    bits = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor.resolve_neg()
    integers = bits.reshape(-1).view(_INTEGER_TYPES[bits.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    # Each position has a weight, so that a permutation changes the sum, too. An overflow wraps around.
    weights = torch.arange(min(len(integers), _CHUNK_ELEMENTS), device=tensor.device) * 2654435761 + 1
    for chunk in torch.split(integers, _CHUNK_ELEMENTS):
        total = total * 31 + (chunk.to(torch.int64) * weights[: len(chunk)]).sum()
    return total
