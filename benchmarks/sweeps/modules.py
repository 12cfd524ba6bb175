"""The tasks as LightningModules, for `sweep`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.sweeps.task import Settings, SweepTask, build_optimizer


class TaskModule(pl.LightningModule):
    """The network of a task with settings."""

    def __init__(self, task: SweepTask, settings: Settings) -> None:
        super().__init__()
        self.task, self.settings, self.lr = task, settings, settings["lr"]
        self.net = task.net(settings)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        self.log("val_accuracy", 100 * (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.task, self.net, {**self.settings, "lr": self.lr})


def builder(task: SweepTask, lr: float | None = None) -> Callable[[Settings], Any]:
    """A ``build`` for `sweep`; with a learning rate where it is no subject."""

    def build(settings: Settings) -> Any:
        values = {name: settings[name] for name in task.space if name != "lr" or lr is None}
        parts = task.data()
        loader = DataLoader(TensorDataset(*parts.train), batch_size=values["batch_size"], shuffle=True)
        validation = DataLoader(TensorDataset(*parts.validation), batch_size=len(parts.validation[0]))
        return TaskModule(task, values if lr is None else {**values, "lr": lr}), (loader, validation)

    return build
