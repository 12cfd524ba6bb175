"""Callbacks that a sweep adds to its trainings: the values of the metric, one sample to time, and the way back."""

from __future__ import annotations

import os
import pickle
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
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

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes what the module itself has logged at the end of the last epoch."""
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


class Handover(Callback):
    """Brings fields of callbacks back from the processes of ``ddp_fork`` and ``ddp_spawn``, which return only metrics.

    A context: within it the Trainer fits; after it the fields have the values of the process of rank zero.

    Args:
        fields: Callbacks and the name of a field of each; ``None`` instead of a callback is left out.

    """

    def __init__(self, fields: Sequence[tuple[Any, str]]) -> None:
        super().__init__()
        self._fields = [(callback, name) for callback, name in fields if callback is not None]
        self._process = os.getpid()
        self._file = ""

    def __enter__(self) -> None:
        descriptor, self._file = tempfile.mkstemp(prefix="lightning_hp_")
        os.close(descriptor)

    def __exit__(self, *exception: object) -> None:
        file = Path(self._file)
        values = file.read_bytes()
        file.unlink()
        if values:
            for (callback, name), value in zip(self._fields, pickle.loads(values), strict=True):
                setattr(callback, name, value)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the fields, in another process than the first."""
        if os.getpid() != self._process and trainer.is_global_zero:
            Path(self._file).write_bytes(pickle.dumps([getattr(callback, name) for callback, name in self._fields]))
