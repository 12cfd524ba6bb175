"""What a training step writes besides gradients, saved so that the side effects of a second pass can be undone.

A snapshot of everything would copy the weights in each step. Instead, only these tensors are copied: small buffers
(running statistics, which torch writes without counting), and of all other tensors those that the first pass has
written, by their version counters or fingerprints (metric states, a memory bank, a teacher's weights). Lists, dicts,
counters and random generators on the user's modules and objects are saved by ``module_state``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_hp.functional.gradients import local_part
from lightning_hp.second_pass.module_state import ModuleState
from lightning_hp.second_pass.uncounted_writes import UncountedWrites, address_of
from lightning_hp.snapshot import is_expanded, undo_of_generator

_SMALL_BYTES = 1 << 20


class SideEffects:
    """What the first pass through ``module`` writes besides gradients; undoes what the second pass writes.

    :meth:`begin_first_pass` and :meth:`end_first_pass` enclose the first pass. :meth:`rewind_generators` before the
    second pass restores the random generators on the module; :meth:`restore` after it restores everything to the state
    at :meth:`end_first_pass`. Parameters are restored only if the training step itself wrote them in place.

    Args:
        module: The module. Layers that are added to it later are not known.
        trained: The parameters that the optimizer trains. The caller restores their values if it moves them.
        uncounted_writes: Detects writes to the other parameters and large buffers that torch does not count.

    """

    def __init__(self, module: nn.Module, trained: Iterable[Tensor], uncounted_writes: UncountedWrites) -> None:
        self._module_state = ModuleState(module)
        self._uncounted_writes = uncounted_writes
        known = {id(t): t for t in (*module.parameters(), *module.buffers()) if not t.is_inference()}
        small = {id(buffer) for buffer in module.buffers() if _is_small(buffer)}
        self._known = set(known)
        self._small_buffers = [known[key] for key in known if key in small and not is_expanded(known[key])]
        self._parameters_and_large_buffers = [known[key] for key in known if key not in small]
        moved = {id(parameter) for parameter in trained}
        # For example the parameters of a teacher, or a large queue.
        self._untrained = [
            tensor for tensor in self._parameters_and_large_buffers if id(tensor) not in moved and not is_lazy(tensor)
        ]
        self.clear()

    def clear(self) -> None:
        """Deletes everything that was saved."""
        self._versions: list[int] = []
        self._other_versions: dict[int, int] = {}
        self._rewind: list[Callable[[], Any]] = []
        self._undo: list[Callable[[], Any]] = []
        self._saved: list[_SavedTensor] = []
        self._uncounted_writes.clear_step()

    def iterators(self) -> list[str]:
        """The types of iterators on the module, whose position cannot be restored."""
        return self._module_state.visit(save=False).iterators

    def begin_first_pass(self) -> None:
        """Saves the versions of tensors and the state of random generators, before the first pass."""
        found = self._module_state.visit(save=False)
        self._versions = [tensor._version for tensor in self._parameters_and_large_buffers]
        self._other_versions = {id(tensor): tensor._version for tensor in self._unknown(found.tensors)}
        self._uncounted_writes.begin_step(self._untrained)
        self._rewind = _save_generators(found.generators)

    def end_first_pass(self) -> None:
        """Saves the state after the first pass."""
        found = self._module_state.visit(save=True)
        self._undo = found.undo + _save_generators(found.generators)
        uncounted = self._uncounted_writes.end_step(self._untrained)
        watched = zip(self._parameters_and_large_buffers, self._versions, strict=True)
        written = [tensor for tensor, version in watched if tensor._version != version]
        written += [tensor for tensor in self._unknown(found.tensors) if self._may_be_written(tensor)]
        self._saved = [_SavedTensor(tensor, None) for tensor in self._small_buffers]
        self._saved += [_SavedTensor(t, t._version) for t in written if id(t) not in uncounted]
        self._saved += [_SavedTensor(t, None) for t in self._untrained if id(t) in uncounted]

    def rewind_generators(self) -> None:
        """Restores the random generators on the module to their state before the first pass."""
        for rewind in self._rewind:
            rewind()

    def restore(self) -> None:
        """Restores everything to the state after the first pass."""
        for undo in self._undo:
            undo()
        with torch.no_grad():
            for saved in self._saved:
                saved.restore()
        self.clear()

    def _unknown(self, tensors: list[Tensor]) -> list[Tensor]:
        """The tensors that are neither parameters nor buffers, or were registered later."""
        return [tensor for tensor in tensors if id(tensor) not in self._known and not tensor.is_inference()]

    def _may_be_written(self, tensor: Tensor) -> bool:
        """Whether the second pass may write this tensor: the first pass did, or it is new and small."""
        if (tensor._base is not None and tensor._base.requires_grad) or tensor.grad_fn is not None:
            return False  # it is part of a graph
        version = self._other_versions.get(id(tensor))
        if version is None:
            return _is_small(tensor) and not is_expanded(tensor)
        return tensor._version != version


class _SavedTensor:
    """The values and the memory of a tensor.

    Args:
        tensor: The tensor.
        version: Its version, if that tells whether it has been written; ``None``: it is restored in any case.

    """

    def __init__(self, tensor: Tensor, version: int | None) -> None:
        self._tensor, self._version = tensor, version
        self._memory = local_part(tensor).detach()
        self._address = address_of(tensor)
        self._values = self._memory.clone()

    def restore(self) -> None:
        if self._version is not None and self._tensor._version == self._version:
            return  # a write would invalidate a graph that the user may have built on the tensor
        if address_of(self._tensor) != self._address:  # `tensor.data` has been assigned
            self._tensor.data = self._memory
        self._memory.copy_(self._values)


def _is_small(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() <= _SMALL_BYTES


def _save_generators(generators: Iterable[Any]) -> list[Callable[[], Any]]:
    return [undo for generator in generators if (undo := undo_of_generator(generator)) is not None]
