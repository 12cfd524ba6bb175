"""Sealed tasks with tables, several losses, and triplets."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    mse_loss,
    normalize,
    triplet_margin_loss,
)
from torch.optim import Adagrad, Adam, Optimizer

from benchmarks import datasets
from benchmarks.lr_tasks.held_out.common import NetModule, accuracy_on, batches, explained, percent_equal
from benchmarks.lr_tasks.sealed import data
from benchmarks.lr_tasks.sealed.common import Params, adam, explained_on, half_decades, momentum
from benchmarks.lr_tasks.shaping.module import Training
from benchmarks.lr_tasks.task import LRTask


def regression_mlp() -> nn.Module:
    """A small MLP for ten numbers."""
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))


class WideAndDeep(nn.Module):
    """A linear model of the categories beside an MLP on their embeddings and the numbers."""

    def __init__(self, n_out: int = 6, dim: int = 8) -> None:
        super().__init__()
        self.wide = nn.ModuleList([nn.Embedding(size, n_out) for size in data.CATEGORIES])
        self.deep = nn.ModuleList([nn.Embedding(size, dim) for size in data.CATEGORIES])
        n_in = dim * len(data.CATEGORIES) + 4
        self.mlp = nn.Sequential(nn.Linear(n_in, 48), nn.ReLU(), nn.Linear(48, n_out))

    def forward(self, x: Tensor) -> Tensor:
        kinds, numbers = x[:, :4].long().T, x[:, 4:]
        embedded = [embed(kind) for embed, kind in zip(self.deep, kinds, strict=True)]
        logits: Tensor = self.mlp(torch.cat([*embedded, numbers], 1))
        for embed, kind in zip(self.wide, kinds, strict=True):
            logits = logits + embed(kind)
        return logits


def smoothed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy with label smoothing."""
    return cross_entropy(logits, labels, label_smoothing=0.1)


def adagrad(params: Params, lr: float) -> Optimizer:
    """Adagrad with its defaults."""
    return Adagrad(params, lr=lr)


def facts_net() -> nn.Module:
    """A CNN with twelve outputs: the digit, whether it is odd, and the sum of the pixels."""
    layers = (nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(256, 48), nn.ReLU(), nn.Linear(48, 12))


def facts_loss(output: Tensor, facts: Tensor) -> Tensor:
    """The sum of three losses."""
    digit, is_odd, total = facts.unbind(1)
    classes = cross_entropy(output[:, :10], digit.long())
    return classes + binary_cross_entropy_with_logits(output[:, 10], is_odd) + mse_loss(output[:, 11], total)


@torch.no_grad()
def facts_score(module: pl.LightningModule) -> float:
    """Mean of the accuracy of the digit, that of its parity, and the explained variance of the sum."""
    _, _, x, facts = data.image_facts()
    output = module(x)
    parity = 100.0 * float(((output[:, 10] > 0) == (facts[:, 1] > 0)).float().mean())
    return (percent_equal(output[:, :10], facts[:, 0]) + parity + explained(output[:, 11], facts[:, 2])) / 3


class Towers(nn.Module):
    """Two encoders of images of two sources into one space."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = (
            nn.Sequential(nn.Flatten(), nn.Linear(n_in, 64), nn.ReLU(), nn.Linear(64, 16)) for n_in in (196, 64)
        )


class Metric(NetModule):
    """Brings images of the same digit together."""

    def training_step(self, batch: data.Triplets, batch_idx: int) -> Tensor:
        large, small = self.net.large, self.net.small
        anchor, same, other = (
            normalize(tower(x), dim=1)  # type: ignore[operator]
            for tower, x in zip((large, small, small), batch, strict=True)
        )
        return triplet_margin_loss(anchor, same, other, margin=0.3)

    def configure_optimizers(self) -> Optimizer:
        return Adam(self.parameters(), lr=self.lr)


@torch.no_grad()
def neighbour_accuracy(module: pl.LightningModule) -> float:
    """Accuracy of the label of the nearest digit of scikit-learn for each MNIST image of the test set."""
    images, digits = datasets.mnist(), datasets.digits()
    queries = normalize(module.net.large(images.x_test), dim=1)  # type: ignore[operator, union-attr]
    keys = normalize(module.net.small(digits.x_test), dim=1)  # type: ignore[operator, union-attr]
    return 100.0 * float((digits.y_test[(queries @ keys.T).argmax(1)] == images.y_test).float().mean())


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="diabetes-mlp-huber-momentum",
        module=lambda lr: Training(regression_mlp(), huber_loss, lr, momentum, None),
        loader=batches(lambda: data.diabetes()[:2], 16),
        epochs=50,
        score=explained_on(data.diabetes),
        naive_lr=0.1,
        default_lr=0.01,
        exponents=half_decades(-5, -0.5),
    ),
    LRTask(
        name="triplet-towers-adam-constant",
        module=lambda lr: Metric(Towers(), lr),
        loader=batches(data.triplets, 32),
        epochs=2,
        score=neighbour_accuracy,
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, 0),
    ),
    LRTask(
        name="three-losses-cnn-adagrad",
        module=lambda lr: Training(facts_net(), facts_loss, lr, adagrad, None),
        loader=batches(lambda: data.image_facts()[:2], 32),
        epochs=6,
        score=facts_score,
        naive_lr=1e-3,
        default_lr=1e-2,
        exponents=half_decades(-4.5, 0),
    ),
    LRTask(
        name="wide-and-deep-adam-smoothing",
        module=lambda lr: Training(WideAndDeep(), smoothed_cross_entropy, lr, adam, None),
        loader=batches(lambda: data.buyers()[:2], 64),
        epochs=30,
        score=accuracy_on(lambda: data.buyers()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -0.5),
    ),
)
