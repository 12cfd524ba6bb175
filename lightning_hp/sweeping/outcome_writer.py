"""The callback of a training that is a process of its own: it writes the outcome to a file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from typing_extensions import override

from lightning_hp.callbacks import BatchSizeScaler, LRFinder
from lightning_hp.sweeping.history import History, LatencyMeter
from lightning_hp.sweeping.training import found_by, one_line

if TYPE_CHECKING:
    import pytorch_lightning as pl


class OutcomeWriter(History):
    """Writes the values of a metric and what a training cost as JSON, or why it failed.

    Args:
        monitor: The metric.
        path: The file.
        sweep_process: Id of the process that started the training. The training ends when that process is gone;
            ``None``: it does not look.
        latency: Whether the time of one sample is measured after the training.

    """

    def __init__(self, monitor: str, path: str, sweep_process: int | None = None, latency: bool = False) -> None:
        super().__init__(monitor)
        self._path = Path(path)
        self._sweep_process = sweep_process
        self._latency = LatencyMeter() if latency else None
        self._started = 0.0

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Starts the clock."""
        self._started = time.monotonic()

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps a sample to time.

        Raises:
            RuntimeError: If the sweep has ended.

        """
        if self._latency is not None:
            self._latency.on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._sweep_process is not None and not psutil.pid_exists(self._sweep_process):
            raise RuntimeError("The sweep that started this training has ended.")

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the outcome, on the first process."""
        if self._latency is not None:
            self._latency.on_fit_end(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        finders = [one for one in getattr(trainer, "callbacks", ()) if isinstance(one, (LRFinder, BatchSizeScaler))]
        outcome = {
            "values": self.values,
            "logged": sorted(trainer.callback_metrics),
            "seconds": time.monotonic() - self._started,
            "parameters": sum(parameter.numel() for parameter in pl_module.parameters()),
            "latency_ms": None if self._latency is None else self._latency.latency_ms,
            "used": {name: float(value) for finder in finders for name, value in found_by(finder).items()},
        }
        self._path.write_text(json.dumps(outcome), encoding="utf-8")

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Writes the first exception of any process."""
        if not self._path.exists():
            self._path.write_text(json.dumps({"reason": one_line(exception)}), encoding="utf-8")
