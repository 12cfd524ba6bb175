"""Held-out tasks with images and labels: mixup, detection, two parameter groups, long tail, batch 1, SAM, noise."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, MultiStepLR, OneCycleLR
from torchvision.ops import box_convert

from benchmarks import datasets
from benchmarks.lr_tasks.held_out import data
from benchmarks.lr_tasks.held_out.common import NetModule, accuracy_on, batches, each_step, percent_equal
from benchmarks.lr_tasks.task import LRTask
from lightning_hp import SAM


def conv_block(n_in: int, n_out: int, stride: int = 1) -> list[nn.Module]:
    """A convolution with BatchNorm and ReLU."""
    return [nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]


def pooled_cnn(width: int, n_out: int) -> nn.Sequential:
    """Three convolutions with BatchNorm, the mean over the pixels, and a linear layer."""
    layers = [*conv_block(1, width), *conv_block(width, 2 * width, 2), *conv_block(2 * width, 4 * width, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, n_out))


class Mixup(NetModule):
    """Trains on mixtures of two samples and of their labels."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        share = float(np.random.beta(0.4, 0.4))  # noqa: NPY002 - seeded with the training
        order = torch.randperm(len(x))
        logits = self.net(share * x + (1 - share) * x[order])
        return share * cross_entropy(logits, y) + (1 - share) * cross_entropy(logits, y[order])

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=self.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        return each_step(optimizer, OneCycleLR(optimizer, max_lr=self.lr, total_steps=self.total_steps))


class Detector(NetModule):
    """Finds one object: its class and its box."""

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels, boxes = batch
        out = self.net(x)
        return cross_entropy(out[:, :10], labels) + 5 * smooth_l1_loss(out[:, 10:].sigmoid(), boxes)

    def configure_optimizers(self) -> Any:
        optimizer = Adam(self.parameters(), lr=self.lr)
        epochs = self.trainer.max_epochs or 1
        return {
            "optimizer": optimizer,
            "lr_scheduler": MultiStepLR(optimizer, [epochs * 6 // 10, epochs * 8 // 10], gamma=0.1),
        }


@torch.no_grad()
def detection_score(module: pl.LightningModule) -> float:
    """Mean of accuracy and intersection over union."""
    images, labels, boxes = data.scenes()[1]
    out = module.net(images)  # type: ignore[operator]
    found, true = (box_convert(b, "cxcywh", "xyxy") for b in (out[:, 10:].sigmoid(), boxes))
    low, high = torch.maximum(found[:, :2], true[:, :2]), torch.minimum(found[:, 2:], true[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    union = (found[:, 2:] - found[:, :2]).prod(1) + (true[:, 2:] - true[:, :2]).prod(1) - common
    return 0.5 * percent_equal(out[:, :10], labels) + 50.0 * float((common / union).mean())


class TwoGroups(NetModule):
    """Fine-tunes a pretrained body at a tenth of the head's rate."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> Any:
        body, head = self.net[:-1], self.net[-1]  # type: ignore[index]
        groups = [{"params": body.parameters(), "lr": self.lr / 10}, {"params": head.parameters(), "lr": self.lr}]
        optimizer = SGD(groups, lr=self.lr, momentum=0.9, weight_decay=1e-4)
        return each_step(optimizer, CosineAnnealingLR(optimizer, self.total_steps))


#: The last layer of `pooled_cnn`.
HEAD = ("11.weight", "11.bias")


@lru_cache(maxsize=1)
def pretrained_weights() -> dict[str, Tensor]:
    """A CNN that was trained to tell the digits 0 to 4 apart; leaves the random state as it was."""
    x, y = data.low_digits()[:2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = pooled_cnn(12, 5)
        optimizer = Adam(net.parameters(), lr=3e-3)
        for _ in range(2):
            for index in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                cross_entropy(net(x[index]), y[index]).backward()
                optimizer.step()
    return {name: value.clone() for name, value in net.state_dict().items()}


def pretrained_cnn() -> nn.Sequential:
    """The pretrained body with a new head."""
    weights = pretrained_weights()
    net = pooled_cnn(12, 5)
    net.load_state_dict({**net.state_dict(), **{name: value for name, value in weights.items() if name not in HEAD}})
    return net


class Focal(NetModule):
    """Focal loss: samples that are classified well count less."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = cross_entropy(self.net(x), y, reduction="none")
        return ((1 - (-loss).exp()) ** 2 * loss).mean()

    def configure_optimizers(self) -> tuple[list[Optimizer], list[ExponentialLR]]:
        optimizer = Adam(self.parameters(), lr=self.lr)
        return [optimizer], [ExponentialLR(optimizer, gamma=0.85)]


@torch.no_grad()
def balanced_accuracy(module: pl.LightningModule) -> float:
    """Mean over the classes of the accuracy."""
    x, y = data.long_tail()[2:]
    is_right = (module.net(x).argmax(1) == y).float()  # type: ignore[operator]
    return 100.0 * float(torch.stack([is_right[y == label].mean() for label in range(10)]).mean())


def normed_mlp() -> nn.Module:
    """An MLP with LayerNorm and GELU."""
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in ((196, 128), (128, 128), (128, 64)):
        layers += [nn.Linear(n_in, n_out), nn.LayerNorm(n_out), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


class PlainSGD(NetModule):
    """Cross-entropy and SGD without momentum."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=self.lr)


def tiny_cnn() -> nn.Module:
    """One convolution without normalisation, and a linear layer."""
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10))


def pair_cnn() -> nn.Module:
    """Convolutions with BatchNorm for images of 8x16 pixels and 100 classes."""
    layers = [*conv_block(1, 12, 2), *conv_block(12, 24), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(192, 100))


class CosineMomentum(NetModule):
    """Cross-entropy and SGD with momentum along a cosine."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-3)
        return each_step(optimizer, CosineAnnealingLR(optimizer, self.total_steps))


class ConstantMomentum(NetModule):
    """Cross-entropy and SGD with momentum at a constant rate."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-4)


def dropout_mlp() -> nn.Module:
    """An MLP with dropout for 100 classes."""
    hidden = [nn.Linear(128, 192), nn.ReLU(), nn.Dropout(0.2), nn.Linear(192, 192), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(192, 100))


def detector_cnn() -> nn.Module:
    """Strided convolutions with BatchNorm, and ten classes and four numbers of the box."""
    layers = [*conv_block(1, 12, 2), *conv_block(12, 24, 2), *conv_block(24, 32)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(800, 64), nn.ReLU(), nn.Linear(64, 14))


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="mixup-cnn-nesterov-onecycle",
        module=lambda lr: Mixup(pooled_cnn(8, 10), lr),
        loader=batches(lambda: tuple(t[:2000] for t in datasets.mnist()[:2]), 64),
        epochs=8,
        score=accuracy_on(lambda: datasets.mnist()[2:]),
        naive_lr=0.1,
        default_lr=0.1,
        exponents=(-3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1),
    ),
    LRTask(
        name="detection-cnn-adam-multistep",
        module=lambda lr: Detector(detector_cnn(), lr),
        loader=batches(lambda: data.scenes()[0], 32),
        epochs=10,
        score=detection_score,
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=(-4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5),
    ),
    LRTask(
        name="finetuning-cnn-two-groups-cosine",
        module=lambda lr: TwoGroups(pretrained_cnn(), lr),
        loader=batches(lambda: data.high_digits()[:2], 16),
        epochs=30,
        score=accuracy_on(lambda: data.high_digits()[2:]),
        naive_lr=0.1,
        default_lr=1e-3,
        exponents=(-3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1),
    ),
    LRTask(
        name="long-tail-focal-adam-exponential",
        module=lambda lr: Focal(normed_mlp(), lr),
        loader=batches(lambda: data.long_tail()[:2], 32),
        epochs=15,
        score=balanced_accuracy,
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=(-4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5),
    ),
    LRTask(
        name="batch-1-cnn-sgd-constant",
        module=lambda lr: PlainSGD(tiny_cnn(), lr),
        loader=batches(lambda: datasets.digits()[:2], 1),
        epochs=1,
        score=accuracy_on(lambda: datasets.digits()[2:]),
        naive_lr=0.1,
        default_lr=0.01,
        exponents=(-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0),
    ),
    LRTask(
        name="sam-cnn-momentum-cosine",
        module=lambda lr: CosineMomentum(pair_cnn(), lr),
        loader=batches(lambda: tuple(t[:3200] for t in data.digit_pairs()[:2]), 64),
        epochs=5,
        score=accuracy_on(lambda: data.digit_pairs()[2:]),
        naive_lr=0.1,
        default_lr=0.1,
        exponents=(-3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1),
        callbacks=lambda: [SAM(rho=0.05)],
    ),
    LRTask(
        name="noisy-100-classes-mlp-momentum-constant",
        module=lambda lr: ConstantMomentum(dropout_mlp(), lr),
        loader=batches(lambda: data.digit_pairs()[:2], 64),
        epochs=12,
        score=accuracy_on(lambda: data.digit_pairs()[2:]),
        naive_lr=0.1,
        default_lr=0.01,
        exponents=(-3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5),
    ),
)
