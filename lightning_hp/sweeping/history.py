"""Callbacks that a sweep adds to its trainings: the values of the metric, and one sample to time."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import torch
from typing_extensions import override

from lightning_hp.nn.backbone.speed import evaluation_mode, time_calls
from lightning_hp.trainer.base_classes import Callback

if TYPE_CHECKING:
    import pytorch_lightning as pl

_NUM_CALLS = 30


class History(Callback):
    """Keeps the values of a metric over a training, in order. A value may occur twice.

    Args:
        monitor: The metric.

    """

    def __init__(self, monitor: str) -> None:
        super().__init__()
        self._monitor = monitor
        self.values: list[float] = []

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes the value, unless the validation is the check before training."""
        if not trainer.sanity_checking:
            self._note(trainer)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes the value of metrics that are logged in training."""
        self._note(trainer)

    def _note(self, trainer: pl.Trainer) -> None:
        if (value := trainer.callback_metrics.get(self._monitor)) is not None:
            self.values.append(float(value))


class LatencyMeter(Callback):
    """Measures how long the module takes for one sample of the first validation or training batch, after ``fit``.

    The input is the first entry of the batch, or the whole batch if it is a tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.latency_ms: float | None = None
        self._sample: Any = None

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps a copy of the first sample."""
        if self._sample is None:
            inputs = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
            self._sample = inputs[:1].detach().clone() if isinstance(inputs, torch.Tensor) and inputs.ndim else ()

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures; a module that cannot be called with the sample has no latency."""
        if isinstance(self._sample, torch.Tensor):
            sample = self._sample.to(pl_module.device)
            try:
                with evaluation_mode(pl_module), torch.inference_mode():
                    seconds = time_calls(lambda: pl_module(sample), _NUM_CALLS, pl_module.device)
            except Exception:  # noqa: BLE001 - the user's `forward`, which may take something else
                return
            self.latency_ms = 1e3 * statistics.median(seconds)
