"""Unseen tasks with images: a small VGG, the angle of a digit, pairs of letters, and a student of a CNN."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, pairwise_distance
from torch.optim import SGD, Optimizer, RMSprop
from torch.optim.lr_scheduler import MultiStepLR

from benchmarks import datasets
from benchmarks.lr_tasks.fresh import images as fresh_images
from benchmarks.lr_tasks.held_out.common import accuracy_on, batches, each_step
from benchmarks.lr_tasks.sealed.common import explained_on, half_decades, momentum, nesterov, one_cycle
from benchmarks.lr_tasks.shaping.module import Training, cosine
from benchmarks.lr_tasks.task import LRTask
from benchmarks.lr_tasks.unseen import data


def vgg() -> nn.Module:
    """Two pairs of convolutions without normalisation for 14x14 pixels, and a layer with dropout."""
    layers: list[nn.Module] = []
    for n_in, n_out in ((1, 10), (10, 20)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(n_out, n_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(180, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))


def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy with a tenth of the label spread over all classes."""
    return cross_entropy(logits, labels, label_smoothing=0.1)


def angle_cnn() -> nn.Module:
    """Three convolutions with GroupNorm for 14x14 pixels, and one number."""
    layers: list[nn.Module] = []
    for n_in, n_out in ((1, 8), (8, 16), (16, 32)):
        layers += [nn.Conv2d(n_in, n_out, 3, 2, 1, bias=False), nn.GroupNorm(4, n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 1))


def strong_decay(params: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """SGD with momentum and a high weight decay."""
    return SGD(params, lr=lr, momentum=0.9, weight_decay=5e-3)


class Siamese(nn.Module):
    """The distance between the embeddings of the two images of a pair."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in ((1, 10), (10, 20)):
            layers += [nn.Conv2d(n_in, n_out, 3, 2, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
        self.embed = nn.Sequential(*layers, nn.Flatten(), nn.Linear(320, 24))

    def forward(self, pairs: Tensor) -> Tensor:
        first, second = self.embed(pairs.flatten(0, 1)[:, None]).unflatten(0, (-1, 2)).unbind(1)
        return pairwise_distance(first, second)


def contrastive(distance: Tensor, is_same: Tensor) -> Tensor:
    """The squared distance of equal letters, and how far that of others is below a margin, squared."""
    return (is_same * distance.square() + (1 - is_same) * (2.0 - distance).relu().square()).mean()


def rmsprop(params: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """RMSprop with a longer mean than its default."""
    return RMSprop(params, lr=lr, alpha=0.95)


@torch.no_grad()
def separation(module: pl.LightningModule) -> float:
    """How well the distance separates equal and other letters: 0 for chance, 100 for all pairs in order."""
    from sklearn.metrics import roc_auc_score

    pairs, is_same = data.letter_pairs()[2:]
    distance = module(pairs)
    if not bool(distance.isfinite().all()):
        return 0.0
    return max(0.0, 200.0 * float(roc_auc_score(is_same, -distance)) - 100.0)


class Student(fresh_images.Distillation):
    """SGD with momentum; a tenth of the rate after half and after four fifths of the training."""

    def configure_optimizers(self) -> Any:  # type: ignore[override]
        optimizer, steps = momentum(self.parameters(), self.lr), self.total_steps
        return each_step(optimizer, MultiStepLR(optimizer, [steps // 2, 4 * steps // 5]))


def student_mlp() -> nn.Module:
    """An MLP with one hidden layer for 14x14 pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(196, 48), nn.ReLU(), nn.Linear(48, 10))


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="vgg-smoothing-nesterov-cosine",
        module=lambda lr: Training(vgg(), smoothed, lr, nesterov, cosine),
        loader=batches(lambda: tuple(t[:2240] for t in datasets.mnist()[:2]), 32),
        epochs=6,
        score=accuracy_on(lambda: (datasets.mnist().x_test[:500], datasets.mnist().y_test[:500])),
        naive_lr=0.1,
        default_lr=0.05,
        exponents=half_decades(-3, 0.5),
    ),
    LRTask(
        name="angle-groupnorm-cnn-momentum-decay-onecycle",
        module=lambda lr: Training(angle_cnn(), mse_loss, lr, strong_decay, one_cycle),
        loader=batches(lambda: data.leaning_digits()[:2], 32),
        epochs=8,
        score=explained_on(data.leaning_digits),
        naive_lr=0.1,
        default_lr=0.05,
        exponents=half_decades(-3.5, 0.5),
    ),
    LRTask(
        name="siamese-letters-cnn-rmsprop-constant",
        module=lambda lr: Training(Siamese(), contrastive, lr, rmsprop, None),
        loader=batches(lambda: data.letter_pairs()[:2], 32),
        epochs=5,
        score=separation,
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4, -0.5),
    ),
    LRTask(
        name="student-mlp-momentum-steps",
        module=lambda lr: Student(student_mlp(), lr),
        loader=batches(fresh_images.taught, 16),
        epochs=6,
        score=accuracy_on(lambda: datasets.mnist()[2:]),
        naive_lr=0.1,
        default_lr=0.05,
        exponents=half_decades(-4, 0),
    ),
)
