"""A model that is evaluated again and again: what it writes besides its weights is restored each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_hp.second_pass.module_state import ModuleState
from lightning_hp.second_pass.saved_tensors import SavedTensors

_SMALL_BYTES = 1 << 20


class Restored(nn.Module):
    """Calls a model, and restores its attributes, containers, generators and small tensors after each call.

    Large tensors that are no weights are restored by the snapshot around the whole measurement.

    Args:
        model: The model.
        callbacks: The callbacks of its Trainer, into which a step may write.

    """

    def __init__(self, model: nn.Module, callbacks: Sequence[Any] = ()) -> None:
        super().__init__()
        self.model = model
        self._before = ModuleState(model, callbacks).visit()
        small = [tensor for tensor in (*self._before.tensors, *model.buffers()) if _is_restorable(tensor)]
        self._tensors = SavedTensors({id(tensor): tensor for tensor in small}.values())

    def forward(self, *args: Any) -> Any:
        """The output of the model."""
        try:
            return self.call(*args)
        finally:
            self._before.restore()
            with torch.no_grad():
                self._tensors.restore()

    def call(self, *args: Any) -> Any:
        """What is called."""
        return self.model(*args)


def _is_restorable(tensor: Tensor) -> bool:
    """Whether it is small and may be written in place, as the state of a metric."""
    is_plain = not tensor.is_inference() and tensor.grad_fn is None and not tensor.requires_grad
    return is_plain and tensor.numel() * tensor.element_size() <= _SMALL_BYTES
