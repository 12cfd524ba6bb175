"""Writes that leave no trace: ``tensor.data.mul_(0.9)``, ``tensor.data = other``, an array that shares the memory.

Torch counts a tensor's in-place writes, but not those that go through ``.data``. Whether a step does so is found by a
fingerprint of all bits, which needs no copy, in the first steps only: it is the same code in each step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_hp.functional.gradients import local_part

#: In so many steps it is looked; what has not been written by then is taken not to be.
STEPS_TO_LOOK = 2
_CHUNK = 1 << 20
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class SilentWrites:
    """Which tensors a step writes without their version telling.

    Keeps what it has found from step to step, so it should live as long as the training.

    Example:
        >>> tensor, silent = torch.zeros(3), SilentWrites()
        >>> silent.before([tensor])
        >>> _ = tensor.data.add_(1)
        >>> silent.after([tensor]) == {id(tensor)}
        True

    """

    def __init__(self) -> None:
        # The tensor itself is kept: an id is a name only as long as its object lives.
        self._looks: dict[int, tuple[Tensor, int]] = {}
        self._found: set[int] = set()
        self.forget()

    def forget(self) -> None:
        """Lets go of the step, not of what was found."""
        self._places: dict[int, int] = {}
        self._prints: dict[int, int] = {}

    def before(self, tensors: Sequence[Tensor]) -> None:
        """Notes where the tensors lie, and, in the first steps, what is in them."""
        self._places = {id(tensor): place_of(tensor) for tensor in tensors}
        new = [tensor for tensor in tensors if self._looks.get(id(tensor), (None, 0))[1] < STEPS_TO_LOOK]
        self._prints = dict(zip(map(id, new), fingerprints(new), strict=True))

    def after(self, tensors: Sequence[Tensor]) -> set[int]:
        """The ids of those that the step writes, now or in an earlier step, or has given other memory."""
        looked = [tensor for tensor in tensors if id(tensor) in self._prints]
        for tensor, now in zip(looked, fingerprints(looked), strict=True):
            self._looks[id(tensor)] = (tensor, self._looks.get(id(tensor), (None, 0))[1] + 1)
            if now != self._prints[id(tensor)]:
                self._found.add(id(tensor))
        moved = {id(t) for t in tensors if id(t) in self._places and place_of(t) != self._places[id(t)]}
        return moved | {id(tensor) for tensor in tensors if id(tensor) in self._found}


def place_of(tensor: Tensor) -> int:
    """Where a tensor's memory begins; 0 for one that has none of its own."""
    return tensor.data_ptr() if tensor.layout == torch.strided and local_part(tensor) is tensor else 0


@torch.no_grad()
def fingerprints(tensors: Sequence[Tensor]) -> list[int]:
    """A number for each tensor that tells its bits and their order; waits for an accelerator once."""
    sums = [_fingerprint(local_part(tensor).detach()) for tensor in tensors]
    by_device: dict[torch.device, list[int]] = {}
    for position, total in enumerate(sums):
        by_device.setdefault(total.device, []).append(position)
    found = [0] * len(sums)
    for positions in by_device.values():
        for position, value in zip(positions, torch.stack([sums[p] for p in positions]).tolist(), strict=True):
            found[position] = value
    return found


def _fingerprint(tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_meta:
        return torch.zeros((), dtype=torch.int64)
    bits = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor.resolve_neg()
    words = bits.reshape(-1).view(_WORDS[bits.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    # Each place has a weight of its own, so that a queue that is rolled is seen, too. Overflow wraps around.
    weights = torch.arange(min(len(words), _CHUNK), device=tensor.device) * 2654435761 + 1
    for chunk in torch.split(words, _CHUNK):
        total = total * 31 + (chunk.to(torch.int64) * weights[: len(chunk)]).sum()
    return total
