"""The losses of a step, as the training sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback
from torch import Tensor

from lightning_hp.rehearsal.namespace import misconfiguration

if TYPE_CHECKING:
    import pytorch_lightning as pl


def is_rehearsal(trainer: Any) -> bool:
    """Whether the steps that the Trainer runs are those of a rehearsal."""
    return any(isinstance(callback, LossRecorder) for callback in trainer.callbacks)


class LossRecorder(Callback):
    """Keeps the loss of every batch of a step."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self._backward: list[Tensor] = []

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Remembers what goes into ``manual_backward``, for a ``training_step`` that returns nothing."""
        if not pl_module.automatic_optimization:
            self._backward.append(loss.detach())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes the loss of the batch, on its own scale."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if pl_module.automatic_optimization:
            if isinstance(loss, Tensor):
                self.losses.append(loss * trainer.accumulate_grad_batches)  # Lightning divided it
        else:
            self._record_manual(trainer, loss)

    def _record_manual(self, trainer: pl.Trainer, loss: Any) -> None:
        backward, self._backward = self._backward, []
        if isinstance(loss, Tensor):
            self.losses.append(loss.detach())
        elif len(trainer.strategy.optimizers) > 1:
            raise misconfiguration(
                trainer,
                f"Expected `training_step` to return the loss that {len(trainer.strategy.optimizers)} optimizers"
                " together bring down, got none. Return it; if there is no such loss (a GAN), tune without a finder.",
            )
        elif backward:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            scale = scaler.get_scale() if scaler is not None else 1.0
            self.losses.append(torch.stack(backward).sum() / scale)
