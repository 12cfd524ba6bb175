"""The gradient noise scale at the present weights: accumulated steps of a rehearsal, each of which is undone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from typing_extensions import override

from lightning_hp.rehearsal import Rehearsal
from lightning_hp.trainer.base_classes import Callback
from lightning_hp.tuning.noise_scale.step_meter import Norms, StepMeter, has_second_pass

if TYPE_CHECKING:
    import pytorch_lightning as pl


def rehearse_noise_scale(rehearsal: Rehearsal, num_training_steps: int, num_micro_batches: int) -> list[Norms]:
    """Accumulates batches to optimizer steps, and measures these at the present weights.

    Args:
        rehearsal: An open rehearsal, at its start.
        num_training_steps: Steps, >= 1. After each the rehearsal goes back to the present weights.
        num_micro_batches: Batches in a step, >= 2; fewer where the data ends.

    Returns:
        The norms of each step that has two batches or more.

    """
    trainer, found = rehearsal.trainer, []
    for _ in range(num_training_steps):
        with StepMeter(trainer, has_second_pass(trainer)) as meter:
            trainer.accumulate_grad_batches = num_micro_batches
            trainer.callbacks = [_Listener(meter), *trainer.callbacks]
            rehearsal.step()
        if meter.norms is not None:
            found.append(meter.norms)
        rehearsal.rewind()  # restores the callbacks and the accumulation too
    return found


class _Listener(Callback):
    """Calls the meter at the hooks of a rehearsed step."""

    def __init__(self, meter: StepMeter) -> None:
        super().__init__()
        self._meter = meter

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._meter.on_train_batch_start(batch)

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._meter.on_before_backward()

    @override
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._meter.on_after_backward()

    @override
    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self._meter.on_before_optimizer_step()
