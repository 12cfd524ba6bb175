"""The losses and the samples of a step, as the training sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_hp.trainer import misconfiguration

if TYPE_CHECKING:
    import pytorch_lightning as pl


def is_rehearsal(trainer: Any) -> bool:
    """Whether the steps that the Trainer runs are those of a rehearsal."""
    return any(isinstance(callback, LossRecorder) for callback in trainer.callbacks)


class LossRecorder(Callback):
    """Keeps the loss of every batch of a step, and how many samples it had."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.num_samples: list[int | None] = []
        self.on_validation_batch: Callable[[], None] | None = None
        self._backward: list[Tensor] = []

    def clear(self) -> None:
        """Forgets the last step."""
        self.losses.clear()
        self.num_samples.clear()
        self._backward.clear()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Remembers what goes into ``manual_backward``, for a ``training_step`` that returns nothing."""
        if not pl_module.automatic_optimization:
            self._backward.append(loss.detach())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes the loss of the batch, on its own scale, and its size."""
        self.num_samples.append(num_samples_of(batch))
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if pl_module.automatic_optimization:
            if isinstance(loss, Tensor):
                self.losses.append(loss * trainer.accumulate_grad_batches)  # Lightning divided it
        else:
            self._record_manual(trainer, loss)

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Tells whoever waits for it."""
        if self.on_validation_batch is not None:
            self.on_validation_batch()

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


def num_samples_of(batch: Any) -> int | None:
    """The first dimension of the first tensor: with several loaders, of the batch of the first one."""
    leaves = (leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim > 0)
    return next((leaf.shape[0] for leaf in leaves), None)
