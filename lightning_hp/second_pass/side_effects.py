"""What a training step writes besides gradients, saved before and after the first pass.

The second pass starts from the state before the first: with a queue that holds the batch's own keys already, or a
teacher that has moved, its loss would be another one. What the first pass has left is what remains.

A copy of everything would copy the weights in each step. Instead, only these tensors are copied: small buffers (running
statistics, which torch writes without counting), small tensors in attributes (metric states), and of all others those
that a step has written (a memory bank, a teacher's weights, see ``writes``). Lists, dicts, counters and random
generators on the user's modules and objects are saved by ``module_state``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_hp.second_pass.module_state import ModuleState
from lightning_hp.second_pass.reachable import Reachable
from lightning_hp.second_pass.saved_tensors import SavedTensors
from lightning_hp.second_pass.writes import Writes
from lightning_hp.snapshot import is_expanded, plain_operations

_SMALL_BYTES = 1 << 20


class SideEffects:
    """What the first pass through ``module`` writes besides gradients.

    :meth:`begin_first_pass` and :meth:`end_first_pass` enclose the first pass. :meth:`rewind` before the second pass
    restores the state at :meth:`begin_first_pass`, :meth:`restore` after it that at :meth:`end_first_pass`.

    Args:
        module: The module. Layers that are added to it later are not known.
        trained: The parameters that the optimizer trains. They are restored if a step writes them.
        writes: Which large tensors the steps write; pass the same object in the whole training.
        callbacks: The callbacks of the Trainer, into which a step may write.

    """

    def __init__(
        self, module: nn.Module, trained: Iterable[Tensor], writes: Writes, callbacks: Sequence[Any] = ()
    ) -> None:
        self._module_state = ModuleState(module, callbacks)
        self._writes = writes
        known = {id(t): t for t in (*module.parameters(), *module.buffers()) if _can_be_written(t)}
        small = {id(buffer) for buffer in module.buffers() if _is_small(buffer)}
        trained_ids = {id(tensor) for tensor in trained}
        self._known = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self._small_buffers = [known[key] for key in known if key in small]
        self._trained = [known[key] for key in known if key in trained_ids]
        # For example the parameters of a teacher, or a large queue.
        self._untrained = [known[key] for key in known if key not in small and key not in trained_ids]
        self.clear()

    def clear(self) -> None:
        """Deletes everything that was saved; which tensors the steps write stays known."""
        self._before: Reachable | None = None
        self._after: Reachable | None = None
        self._tensors_before = SavedTensors()
        self._tensors_after = SavedTensors()
        self._writes.clear_step()

    def iterators(self) -> list[str]:
        """The types of iterators on the module, whose position cannot be restored."""
        return self._module_state.visit().iterators

    @torch.no_grad()
    def begin_first_pass(self) -> None:
        """Saves the state before the first pass."""
        self._before = self._module_state.visit()
        with plain_operations():
            others = self._others(self._before)
            small = [tensor for tensor in others if _is_small(tensor)]
            self._tensors_before = SavedTensors([*self._small_buffers, *small])
            large = [tensor for tensor in others if not _is_small(tensor)]
            self._writes.begin_step([*self._untrained, *large], self._trained)

    @torch.no_grad()
    def end_first_pass(self) -> None:
        """Saves the state after the first pass."""
        self._after = self._module_state.visit(self._before)
        with plain_operations():
            # A tensor that was replaced can be held elsewhere too.
            small = {id(tensor): tensor for tensor in self._tensors_before.tensors}
            small.update({id(tensor): tensor for tensor in self._others(self._after) if _is_small(tensor)})
            self._tensors_after = SavedTensors([*small.values(), *self._writes.end_step()])

    @torch.no_grad()
    def rewind(self) -> None:
        """Restores everything to the state before the first pass."""
        assert self._before is not None
        self._before.restore()
        with plain_operations():
            self._writes.rewind()
            self._tensors_before.restore()

    @torch.no_grad()
    def restore(self) -> None:
        """Restores everything to the state after the first pass."""
        assert self._after is not None
        self._after.restore()
        with plain_operations():
            self._tensors_after.restore()
        self.clear()

    def _others(self, found: Reachable) -> list[Tensor]:
        """The tensors that are neither parameters nor buffers, or were registered later."""
        return [tensor for tensor in found.tensors if id(tensor) not in self._known and _can_be_written(tensor)]


def _is_small(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() <= _SMALL_BYTES


def _can_be_written(tensor: Tensor) -> bool:
    """Whether a step may write a tensor in place: one that is part of a graph, lazy or expanded may not be."""
    if tensor.is_inference() or tensor.grad_fn is not None or is_lazy(tensor) or is_expanded(tensor):
        return False
    return tensor._base is None or not tensor._base.requires_grad
