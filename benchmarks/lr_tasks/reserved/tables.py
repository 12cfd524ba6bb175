"""Reserved tasks with tables: ordered levels, stars, a highway network, rare cases, and a mixture density."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from torch.optim import SGD, AdamW, Optimizer, RAdam
from torch.optim.lr_scheduler import ExponentialLR

from benchmarks.lr_tasks.held_out.common import NetModule, accuracy_on, batches
from benchmarks.lr_tasks.reserved import data
from benchmarks.lr_tasks.reserved.images import nesterov
from benchmarks.lr_tasks.sealed.common import adam, explained_on, half_decades
from benchmarks.lr_tasks.shaping.module import Training, cosine
from benchmarks.lr_tasks.task import LRTask


class Ordinal(nn.Module):
    """An MLP that gives one number; the logit that a row is above a level is this number less a border."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(11, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 1))
        self.borders = nn.Parameter(torch.linspace(-2, 2, data.LEVELS - 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x) - self.borders
        return logits


def level_loss(logits: Tensor, levels: Tensor) -> Tensor:
    """Cross entropy of whether the row is above each border, summed over them."""
    is_above = (levels[:, None] > torch.arange(data.LEVELS - 1)).float()
    return binary_cross_entropy_with_logits(logits, is_above, reduction="none").sum(1).mean()


@torch.no_grad()
def kappa(module: pl.LightningModule) -> float:
    """Cohen's kappa with quadratic weights on test rows, in percent, not below 0."""
    from sklearn.metrics import cohen_kappa_score

    x, levels = data.ratings()[2:]
    found = (module(x) > 0).sum(1)
    return max(0.0, 100.0 * float(cohen_kappa_score(levels.numpy(), found.numpy(), weights="quadratic")))


def sgd(params: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """SGD without momentum."""
    return SGD(params, lr=lr)


class Factors(nn.Module):
    """Stars as the mean, what a user and an item add to it, and the product of their vectors."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(3.0))
        self.users, self.items = nn.Embedding(data.USERS, dim), nn.Embedding(data.ITEMS, dim)
        self.mood, self.fame = nn.Embedding(data.USERS, 1), nn.Embedding(data.ITEMS, 1)
        for embedding in (self.users, self.items, self.mood, self.fame):
            nn.init.normal_(embedding.weight, std=0.1)

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = pairs.T
        product = (self.users(user) * self.items(item)).sum(1, keepdim=True)
        stars: Tensor = self.mean + self.mood(user) + self.fame(item) + product
        return stars


class Highway(nn.Module):
    """Layers that mix a change of their input with the input itself, by a gate that is closed at first."""

    def __init__(self, dim: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(40, dim), nn.Linear(dim, 50)
        self.changes = nn.ModuleList([nn.Linear(dim, dim) for _ in range(layers)])
        self.gates = nn.ModuleList([nn.Linear(dim, dim) for _ in range(layers)])
        for gate in self.gates:
            nn.init.constant_(gate.get_parameter("bias"), -1.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        for change, gate in zip(self.changes, self.gates, strict=True):
            share = gate(x).sigmoid()
            x = share * change(x).relu() + (1 - share) * x
        logits: Tensor = self.head(x)
        return logits


def rare_mlp() -> nn.Module:
    """An MLP with BatchNorm and dropout, and one logit."""
    first = (nn.Linear(24, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1))
    return nn.Sequential(*first, nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 1))


def rare_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy in which a rare case counts five times."""
    return binary_cross_entropy_with_logits(logits, labels, pos_weight=torch.tensor(5.0))


def strong_decay(params: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """AdamW with a high weight decay."""
    return AdamW(params, lr=lr, weight_decay=0.3)


@torch.no_grad()
def average_precision(module: pl.LightningModule) -> float:
    """Average precision of the rare cases in percent; 0 if outputs are not finite."""
    from sklearn.metrics import average_precision_score

    x, labels = data.rare_cases()[2:]
    logits = module(x)
    return 100.0 * float(average_precision_score(labels, logits)) if bool(logits.isfinite().all()) else 0.0


#: Parts of the mixture.
PARTS = 5


def mixture_mlp() -> nn.Module:
    """For each part its weight, two means and two logarithms of deviations."""
    return nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5 * PARTS))


def mixture_loss(output: Tensor, target: Tensor) -> Tensor:
    """Negative logarithm of the density of the target, for a mixture of normal distributions."""
    weights, means, scales = output.split([PARTS, 2 * PARTS, 2 * PARTS], 1)
    means, scales = means.unflatten(1, (PARTS, 2)), scales.unflatten(1, (PARTS, 2)).clamp(min=-5)
    distance = ((target[:, None] - means) / scales.exp()).square()
    density = -(0.5 * (distance + math.log(2 * math.pi)) + scales).sum(2)
    return -(weights.log_softmax(1) + density).logsumexp(1).mean()


@torch.no_grad()
def density_score(module: pl.LightningModule) -> float:
    """How far the logarithm of the density exceeds that of a normal distribution, as a share below 100."""
    x, y = data.arms()[2:]
    constant = 1 + math.log(2 * math.pi)  # of standardised targets
    gain = constant - float(mixture_loss(module(x), y))
    return 100.0 * (1.0 - math.exp(-gain / 2)) if gain > 0 else 0.0


class Mixture(NetModule):
    """RAdam whose rate falls by a factor after each epoch."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        return output

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, target = batch
        return mixture_loss(self.net(x), target)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[ExponentialLR]]:
        optimizer = RAdam(self.parameters(), lr=self.lr)
        return [optimizer], [ExponentialLR(optimizer, gamma=0.85)]


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="ordinal-mlp-sgd-batch-4-cosine",
        module=lambda lr: Training(Ordinal(), level_loss, lr, sgd, cosine),
        loader=batches(lambda: data.ratings()[:2], 4),
        epochs=10,
        score=kappa,
        naive_lr=0.1,
        default_lr=0.01,
        exponents=half_decades(-4, 0),
    ),
    LRTask(
        name="recommender-factors-adam-constant",
        module=lambda lr: Training(Factors(), mse_loss, lr, adam, None),
        loader=batches(lambda: data.stars()[:2], 64),
        epochs=8,
        score=explained_on(data.stars),
        naive_lr=1e-3,
        default_lr=5e-3,
        exponents=half_decades(-4, 0),
    ),
    LRTask(
        name="highway-50-classes-nesterov-cosine",
        module=lambda lr: Training(Highway(), cross_entropy, lr, nesterov, cosine),
        loader=batches(lambda: data.fifty_classes()[:2], 64),
        epochs=12,
        score=accuracy_on(lambda: data.fifty_classes()[2:]),
        naive_lr=0.1,
        default_lr=0.05,
        exponents=half_decades(-3.5, 0.5),
    ),
    LRTask(
        name="rare-cases-mlp-adamw-decay-cosine",
        module=lambda lr: Training(rare_mlp(), rare_loss, lr, strong_decay, cosine),
        loader=batches(lambda: data.rare_cases()[:2], 128),
        epochs=15,
        score=average_precision,
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -0.5),
    ),
    LRTask(
        name="mixture-density-radam-exponential",
        module=lambda lr: Mixture(mixture_mlp(), lr),
        loader=batches(lambda: data.arms()[:2], 32),
        epochs=12,
        score=density_score,
        naive_lr=1e-3,
        default_lr=2e-3,
        exponents=half_decades(-4.5, -0.5),
    ),
)
