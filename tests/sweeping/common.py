"""A training of two steps whose score is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

TRAINER = {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1}


class Scored(pl.LightningModule):
    """Logs a score that its settings determine, and draws a random number so that the seed is seen."""

    def __init__(self, score: float, width: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(2, width)
        self.score = score
        self.draw = float(torch.rand(()))

    def forward(self, batch: Tensor) -> Tensor:
        return self.layer(batch)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.layer(batch[0]).pow(2).mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_score", self.score)
        self.log("draw", self.draw)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    data = TensorDataset(torch.arange(16.0).reshape(8, 2))
    return DataLoader(data, batch_size=4), DataLoader(data, batch_size=8)


def build(settings: dict[str, Any]) -> Any:
    """The best settings are a = 3 and b = 20."""
    return Scored(-abs(settings["a"] - 3) - abs(settings["b"] - 20) / 10), loaders()


SPACE = {"a": [1, 2, 3, 4], "b": [10, 20, 40]}


def folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir())
