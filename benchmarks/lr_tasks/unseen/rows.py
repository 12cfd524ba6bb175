"""Unseen tasks with rows of numbers: a residual MLP, tags of characters, a transformer, a variational autoencoder."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LinearLR

from benchmarks.lr_tasks.held_out.common import NetModule, accuracy_on, batches, each_step
from benchmarks.lr_tasks.reserved import sequences as reserved_sequences
from benchmarks.lr_tasks.reserved import texts as reserved_texts
from benchmarks.lr_tasks.sealed import data as sealed_data
from benchmarks.lr_tasks.sealed.common import adamw, explained_on, half_decades, nadam
from benchmarks.lr_tasks.shaping.module import Training, polynomial, warmup_cosine
from benchmarks.lr_tasks.task import LRTask
from benchmarks.lr_tasks.unseen import data


class ResidualBlock(nn.Module):
    """LayerNorm and a small MLP beside a shortcut."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers = (nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Dropout(0.1), nn.Linear(2 * dim, dim))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = x + self.layers(x)
        return changed


def residual_mlp(dim: int = 48) -> nn.Module:
    """Two residual blocks for a table with 30 columns and seven classes."""
    blocks = [ResidualBlock(dim) for _ in range(2)]
    return nn.Sequential(nn.Linear(30, dim), *blocks, nn.LayerNorm(dim), nn.Linear(dim, 7))


class Tagger(nn.Module):
    """A GRU that classifies each character."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(reserved_texts.CHARACTERS, 24)
        self.gru = nn.GRU(24, 40, batch_first=True)
        self.head = nn.Linear(40, len(reserved_texts.KINDS))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.gru(self.embed(x))[0])
        return logits


class Tagging(reserved_sequences.Tagging):
    """AdamW, a rate that falls linearly to 0."""

    def configure_optimizers(self) -> Any:
        optimizer = AdamW(self.parameters(), lr=self.lr, weight_decay=0.01)
        return each_step(optimizer, LinearLR(optimizer, 1.0, 0.0, self.total_steps))


class SeriesTransformer(nn.Module):
    """A layer of attention over 24 values; the mean over the places gives a later value."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(1, dim), nn.Parameter(0.5 * torch.randn(24, dim))
        self.layer = nn.TransformerEncoderLayer(dim, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.head(self.layer(self.embed(x) + self.place).mean(1))
        return value


class VariationalAutoencoder(nn.Module):
    """The mean and the logarithm of the variance of a code of 10 numbers, and the logits of the pixels from a code."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(196, 128), nn.ReLU(), nn.Linear(128, 20))
        self.decode = nn.Sequential(nn.Linear(10, 128), nn.ReLU(), nn.Linear(128, 196))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """The negative evidence bound, per image."""
        mean, log_variance = self.encode(x).chunk(2, 1)
        code = mean + (0.5 * log_variance).exp() * noise
        rebuilt = binary_cross_entropy_with_logits(self.decode(code), x, reduction="none").sum(1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        bound: Tensor = (rebuilt + divergence).mean()
        return bound


class Rebuilding(NetModule):
    """Adam at a constant rate."""

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        bound: Tensor = self.net(batch[0], torch.randn(len(batch[0]), 10))
        return bound

    def configure_optimizers(self) -> Optimizer:
        return Adam(self.parameters(), lr=self.lr)


@torch.no_grad()
def bound_score(module: pl.LightningModule) -> float:
    """How much of the gap is closed between the mean image and a perfect one without a code, in percent."""
    x, x_test = data.ink()
    share = x.mean(0).clamp(1e-4, 1 - 1e-4).expand_as(x_test)
    worst = -(x_test * share.log() + (1 - x_test) * (1 - share).log()).sum(1).mean()
    best = -(x_test.xlogy(x_test) + (1 - x_test).xlogy(1 - x_test)).sum(1).mean()
    noise = torch.randn(len(x_test), 10, generator=torch.Generator().manual_seed(0))
    found = module.net(x_test, noise)  # type: ignore[operator]
    return max(0.0, 100.0 * float((worst - found) / (worst - best)))


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="ground-cover-residual-mlp-adamw-warmup-cosine",
        module=lambda lr: Training(residual_mlp(), cross_entropy, lr, adamw, warmup_cosine),
        loader=batches(lambda: data.ground_cover()[:2], 64),
        epochs=6,
        score=accuracy_on(lambda: data.ground_cover()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-3.5, 0.5),
    ),
    LRTask(
        name="source-tags-gru-adamw-linear",
        module=lambda lr: Tagging(Tagger(), lr),
        loader=batches(lambda: reserved_texts.tagged_source()[:2], 16),
        epochs=1,
        score=accuracy_on(lambda: reserved_texts.tagged_source()[2:]),
        naive_lr=1e-3,
        default_lr=2e-3,
        exponents=half_decades(-4, 0),
    ),
    LRTask(
        name="series-transformer-nadam-poly",
        module=lambda lr: Training(SeriesTransformer(), mse_loss, lr, nadam, polynomial),
        loader=batches(lambda: sealed_data.series()[:2], 32),
        epochs=7,
        score=explained_on(sealed_data.series),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4, -0.5),
    ),
    LRTask(
        name="variational-autoencoder-adam-constant",
        module=lambda lr: Rebuilding(VariationalAutoencoder(), lr),
        loader=batches(lambda: data.ink()[:1], 64),
        epochs=12,
        score=bound_score,
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4, -0.5),
    ),
)
