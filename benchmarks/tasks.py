"""The tasks of the learning-rate benchmarks: real data, a small model, an optimizer, and two forms of schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.resnet import BasicBlock

from benchmarks import datasets

Form = Literal["constant", "one_cycle"]
FORMS: tuple[Form, ...] = ("constant", "one_cycle")


class PixelRows(nn.Module):
    """A small transformer that reads an image row by row."""

    def __init__(self, size: int, num_classes: int, dim: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(size, dim)
        self.position = nn.Parameter(torch.randn(size, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x.squeeze(1)) + self.position).mean(1))


def mlp(n_in: int, hidden: int, n_out: int, dropout: float = 0.0) -> nn.Module:
    """Two hidden layers with ReLU."""
    drop = [nn.Dropout(dropout)] if dropout else []
    layers = [nn.Flatten(), nn.Linear(n_in, hidden), nn.ReLU(), *drop, nn.Linear(hidden, hidden), nn.ReLU(), *drop]
    return nn.Sequential(*layers, nn.Linear(hidden, n_out))


def cnn(width: int, n_out: int) -> nn.Module:
    """Three convolutions with BatchNorm."""

    def block(n_in: int, n: int) -> list[nn.Module]:
        return [nn.Conv2d(n_in, n, 3, padding=1, bias=False), nn.BatchNorm2d(n), nn.ReLU()]

    body = [*block(1, width), nn.MaxPool2d(2), *block(width, 2 * width), nn.MaxPool2d(2), *block(2 * width, 2 * width)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, n_out))


def narrow_resnet(width: int, n_out: int) -> nn.Module:
    """ResNet-18 (stem and 8 blocks) with few channels, for small images with one channel."""
    stem = [nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
    layers: list[nn.Module] = [*stem]
    n_in = width
    for stage, n in enumerate((width, 2 * width, 4 * width, 8 * width)):
        stride = 1 if stage == 0 else 2
        shortcut = None
        if stride != 1:
            shortcut = nn.Sequential(nn.Conv2d(n_in, n, 1, stride, bias=False), nn.BatchNorm2d(n))
        layers += [BasicBlock(n_in, n, stride, shortcut), BasicBlock(n, n)]
        n_in = n
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, n_out))


def letters_mlp() -> nn.Module:
    """An embedding of each letter of the context and an MLP."""
    size = len(datasets.TEXT_ALPHABET)
    return nn.Sequential(nn.Embedding(size, 16), mlp(16 * datasets.TEXT_CONTEXT, 128, size))


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda params, lr: SGD(params, lr=lr),
    "momentum": lambda params, lr: SGD(params, lr=lr, momentum=0.9, weight_decay=5e-4),
    "adam": lambda params, lr: Adam(params, lr=lr),
    "adamw": lambda params, lr: AdamW(params, lr=lr),
}


@dataclass(frozen=True)
class Task:
    """One training: data, model, optimizer, batch size and length."""

    name: str
    split: Callable[[], datasets.Split]
    net: Callable[[], nn.Module]
    optimizer: str
    batch_size: int
    epochs: int

    @property
    def total_steps(self) -> int:
        return self.epochs * (len(self.split().x_train) // self.batch_size)

    def module(self, form: Form, lr: float = 1e-3, seed: int = 0) -> TaskModule:
        """A new model; the same seed gives the same initial weights."""
        torch.manual_seed(seed)
        return TaskModule(self.net(), self.optimizer, lr, self.total_steps if form == "one_cycle" else None)

    def loader(self) -> DataLoader[tuple[Tensor, ...]]:
        split = self.split()
        return DataLoader(
            TensorDataset(split.x_train, split.y_train), batch_size=self.batch_size, shuffle=True, drop_last=True
        )

    def test_loader(self) -> DataLoader[tuple[Tensor, ...]]:
        split = self.split()
        return DataLoader(TensorDataset(split.x_test, split.y_test), batch_size=500)


class TaskModule(pl.LightningModule):
    """The module of a user: network, loss, optimizer, and optionally a one-cycle schedule."""

    def __init__(self, net: nn.Module, optimizer: str, lr: float, one_cycle_steps: int | None = None) -> None:
        super().__init__()
        self.net = net
        self.lr = lr
        self.optimizer_name = optimizer
        self.one_cycle_steps = one_cycle_steps

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return cross_entropy(self.net(x), y)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("accuracy", 100.0 * (self.net(x).argmax(1) == y).float().mean(), batch_size=len(x))

    def configure_optimizers(self) -> Any:
        optimizer = OPTIMIZERS[self.optimizer_name](self.parameters(), self.lr)
        if self.one_cycle_steps is None:
            return optimizer
        # With its default the schedule adds momentum to SGD without momentum, which would be another optimizer.
        cycle_momentum = self.optimizer_name != "sgd"
        schedule = OneCycleLR(
            optimizer, max_lr=self.lr, total_steps=self.one_cycle_steps, cycle_momentum=cycle_momentum
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _digits_mlp() -> nn.Module:
    return mlp(64, 128, 10)


def _mnist_mlp() -> nn.Module:
    return mlp(196, 256, 10, dropout=0.2)


def _cancer_mlp() -> nn.Module:
    return mlp(30, 64, 2)


TASKS: tuple[Task, ...] = (
    Task("digits-mlp-sgd", datasets.digits, _digits_mlp, "sgd", 32, 10),
    Task("digits-mlp-momentum", datasets.digits, _digits_mlp, "momentum", 32, 10),
    Task("digits-cnn-momentum", datasets.digits, lambda: cnn(16, 10), "momentum", 64, 8),
    Task("digits-cnn-adamw", datasets.digits, lambda: cnn(16, 10), "adamw", 64, 8),
    Task("digits-transformer-adamw", datasets.digits, lambda: PixelRows(8, 10), "adamw", 64, 10),
    Task("mnist-mlp-adam", datasets.mnist, _mnist_mlp, "adam", 64, 5),
    Task("mnist-cnn-sgd", datasets.mnist, lambda: cnn(8, 10), "sgd", 64, 4),
    Task("mnist-cnn-adamw", datasets.mnist, lambda: cnn(8, 10), "adamw", 64, 4),
    Task("mnist-resnet-momentum", datasets.mnist, lambda: narrow_resnet(8, 10), "momentum", 64, 2),
    Task("mnist-resnet-adamw", datasets.mnist, lambda: narrow_resnet(8, 10), "adamw", 64, 2),
    Task("cancer-mlp-momentum", datasets.cancer, _cancer_mlp, "momentum", 16, 10),
    Task("cancer-mlp-adamw", datasets.cancer, _cancer_mlp, "adamw", 16, 10),
    Task("text-mlp-momentum", datasets.text, letters_mlp, "momentum", 64, 2),
    Task("text-mlp-adamw", datasets.text, letters_mlp, "adamw", 64, 2),
)
