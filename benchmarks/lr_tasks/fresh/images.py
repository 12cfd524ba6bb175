"""Fresh tasks with images: a network with GroupNorm, distillation, several labels per image, point clouds."""

from __future__ import annotations

from functools import lru_cache

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, kl_div
from torch.optim import Adam, NAdam, Optimizer

from benchmarks import datasets
from benchmarks.lr_tasks.fresh import data
from benchmarks.lr_tasks.held_out.common import NetModule, accuracy_on, batches
from benchmarks.lr_tasks.sealed.common import adamw, half_decades, nesterov
from benchmarks.lr_tasks.shaping.module import Training, cosine
from benchmarks.lr_tasks.task import LRTask
from benchmarks.tasks import cnn
from lightning_hp import SAM


class ResidualBlock(nn.Module):
    """Two convolutions with GroupNorm beside a shortcut."""

    def __init__(self, n_in: int, n: int) -> None:
        super().__init__()
        stride = 1 if n == n_in else 2
        first = (nn.Conv2d(n_in, n, 3, stride, 1, bias=False), nn.GroupNorm(4, n), nn.ReLU())
        self.body = nn.Sequential(*first, nn.Conv2d(n, n, 3, 1, 1, bias=False), nn.GroupNorm(4, n))
        self.shortcut = nn.Identity() if n == n_in else nn.Conv2d(n_in, n, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.body(x))


def group_norm_resnet() -> nn.Module:
    """A strided stem and three residual blocks for 14x14 pixels."""
    stem = (nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.GroupNorm(4, 8), nn.ReLU())
    blocks = (ResidualBlock(8, 8), ResidualBlock(8, 16), ResidualBlock(16, 16))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def student() -> nn.Module:
    """Two small strided convolutions for 14x14 pixels."""
    layers = (nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 12, 3, 2, 1), nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(192, 10))


@lru_cache(maxsize=1)
def taught() -> tuple[Tensor, Tensor, Tensor]:
    """2400 images, their labels, and what a larger network that was trained on all 4000 makes of them."""
    x, y = datasets.mnist()[:2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = cnn(12, 10)
        optimizer = Adam(teacher.parameters(), lr=3e-3)
        for _ in range(3):
            for index in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                cross_entropy(teacher(x[index]), y[index]).backward()
                optimizer.step()
        with torch.no_grad():
            return x[:2400], y[:2400], teacher.eval()(x[:2400])


class Distillation(NetModule):
    """Three tenths cross entropy, seven tenths the divergence from the softened answers of the teacher."""

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels, teacher = batch
        logits, heat = self.net(x), 4.0
        soft = kl_div((logits / heat).log_softmax(1), (teacher / heat).softmax(1), reduction="batchmean")
        return 0.3 * cross_entropy(logits, labels) + 0.7 * heat**2 * soft

    def configure_optimizers(self) -> Optimizer:
        return NAdam(self.parameters(), lr=self.lr)


def several_labels_cnn() -> nn.Module:
    """Two convolutions for 8x24 pixels, and ten logits."""
    layers = (nn.Conv2d(1, 10, 3, 2, 1), nn.ReLU(), nn.Conv2d(10, 20, 3, 2, 1), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(240, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10))


@torch.no_grad()
def f1_of_labels(module: pl.LightningModule) -> float:
    """F1 score over all labels of all test images."""
    x, y = data.present_digits()[2:]
    found = (module(x) > 0).float()
    return 100.0 * float(2 * (found * y).sum() / (found.sum() + y.sum()))


class PointNet(nn.Module):
    """The same layers for each point of a cloud, their maximum, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        first = (nn.Conv1d(2, 24, 1), nn.BatchNorm1d(24), nn.ReLU())
        self.points = nn.Sequential(*first, nn.Conv1d(24, 64, 1), nn.BatchNorm1d(64), nn.ReLU())
        self.head = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.points(x).amax(2))
        return logits


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="groupnorm-resnet-nesterov-cosine",
        module=lambda lr: Training(group_norm_resnet(), cross_entropy, lr, nesterov, cosine),
        loader=batches(lambda: tuple(t[:2400] for t in datasets.mnist()[:2]), 32),
        epochs=5,
        score=accuracy_on(lambda: (datasets.mnist().x_test[:500], datasets.mnist().y_test[:500])),
        naive_lr=0.1,
        default_lr=0.05,
        exponents=half_decades(-3.5, 0.5),
    ),
    LRTask(
        name="distilled-cnn-nadam-constant",
        module=lambda lr: Distillation(student(), lr),
        loader=batches(taught, 32),
        epochs=6,
        score=accuracy_on(lambda: datasets.mnist()[2:]),
        naive_lr=1e-3,
        default_lr=2e-3,
        exponents=half_decades(-4.5, -0.5),
    ),
    LRTask(
        name="several-labels-cnn-adamw-accumulation",
        module=lambda lr: Training(several_labels_cnn(), binary_cross_entropy_with_logits, lr, adamw, cosine),
        loader=batches(lambda: data.present_digits()[:2], 32),
        epochs=5,
        score=f1_of_labels,
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4, -0.5),
        options={"accumulate_grad_batches": 2},
    ),
    LRTask(
        name="sam-pointnet-adamw-cosine",
        module=lambda lr: Training(PointNet(), cross_entropy, lr, adamw, cosine),
        loader=batches(lambda: data.digit_points()[:2], 32),
        epochs=8,
        score=accuracy_on(lambda: data.digit_points()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -0.5),
        callbacks=lambda: [SAM(rho=0.1)],
    ),
)
