"""Held-out tasks without labels: contrastive and masked pretraining, and a variational autoencoder."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize, pad
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from benchmarks import datasets
from benchmarks.lr_tasks.held_out.common import (
    NetModule,
    batches,
    each_step,
    explained,
    warm_up_cosine,
)
from benchmarks.lr_tasks.task import LRTask


class ContrastiveNet(nn.Module):
    """An encoder of 14x14 images, and a projection for the loss."""

    def __init__(self) -> None:
        super().__init__()
        body: list[nn.Module] = []
        for n_in, n_out in ((1, 8), (8, 16), (16, 32)):
            body += [nn.Conv2d(n_in, n_out, 3, 2, 1), nn.ReLU()]
        self.encoder = nn.Sequential(*body, nn.Flatten(), nn.Linear(128, 24))
        self.projection = nn.Sequential(nn.ReLU(), nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        return normalize(self.projection(self.encoder(x)), dim=1)


def view(x: Tensor) -> Tensor:
    """A random crop of each image after a shift by up to 2 pixels, with noise, contrast and an erased square."""
    top, left = torch.randint(0, 5, (2, len(x), 1))
    steps = torch.arange(14)
    padded = pad(x, (2, 2, 2, 2), value=-0.46)[:, 0]
    rows, columns = (top + steps)[:, :, None], (left + steps)[:, None, :]
    crop = padded[torch.arange(len(x))[:, None, None], rows, columns][:, None]
    low, side = torch.randint(0, 11, (2, len(x), 1)), 4
    inside = [(steps >= start) & (steps < start + side) for start in low]
    erased = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
    crop = crop.masked_fill(erased, -0.46) * (0.6 + 0.8 * torch.rand(len(x), 1, 1, 1))
    return crop + 0.3 * torch.randn_like(crop)


class Contrastive(NetModule):
    """InfoNCE over two views of each image, as in SimCLR."""

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        (x,) = batch
        z = self.net(torch.cat([view(x), view(x)]))
        similarity = (z @ z.T / 0.2).fill_diagonal_(-1e9)
        return cross_entropy(similarity, (torch.arange(len(z)) + len(x)) % len(z))

    def configure_optimizers(self) -> Any:
        optimizer = AdamW(self.parameters(), lr=self.lr, weight_decay=1e-4)
        return each_step(optimizer, CosineAnnealingLR(optimizer, self.total_steps))


@torch.no_grad()
def neighbour_accuracy(module: pl.LightningModule) -> float:
    """Accuracy of the label of the nearest of 1000 labelled images in the embedding."""
    split = datasets.mnist()
    images = torch.cat([split.x_train[:1000], split.x_test])
    embedding = normalize(module.net.encoder(images))  # type: ignore[operator, union-attr]
    nearest = (embedding[1000:] @ embedding[:1000].T).argmax(1)
    return 100.0 * float((split.y_train[nearest] == split.y_test).float().mean())


class MaskedNet(nn.Module):
    """Encodes the visible ones of 16 patches with a transformer layer, and predicts all patches with another."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(4, dim)
        self.position = nn.Parameter(torch.randn(16, dim))
        self.hidden = nn.Parameter(0.02 * torch.randn(dim))
        self.encoder, self.decoder = (
            nn.TransformerEncoder(
                nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout=0.0, batch_first=True, norm_first=True),
                depth,
                enable_nested_tensor=False,
            )
            for depth in (1, 1)
        )
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4))

    def forward(self, patches: Tensor, order: Tensor) -> Tensor:
        """Predicts all patches from the 8 first ones of each row of ``order``."""
        tokens = self.embed(patches) + self.position
        index = order[:, :8, None].expand(-1, -1, tokens.shape[2])
        encoded = self.encoder(tokens.gather(1, index))
        full = self.hidden.expand(tokens.shape).scatter(1, index, encoded)
        return self.head(self.decoder(full + self.position))


def patches_of(x: Tensor) -> Tensor:
    """The 16 patches of 2x2 pixels of an 8x8 image."""
    return x.reshape(-1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(-1, 16, 4)


class Masked(NetModule):
    """Mean squared error of the masked patches, as in MAE."""

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        patches = patches_of(batch[0])
        order = torch.rand(len(patches), 16).argsort(1)
        error = (self.net(patches, order) - patches).square().mean(2)
        return error.gather(1, order[:, 8:]).mean()

    def configure_optimizers(self) -> Any:
        optimizer = AdamW(self.parameters(), lr=self.lr, betas=(0.9, 0.95), weight_decay=0.05)
        return each_step(optimizer, warm_up_cosine(optimizer, self.total_steps))


@torch.no_grad()
def masked_score(module: pl.LightningModule) -> float:
    """Explained variance of the masked patches of test images, with the same masks each time."""
    patches = patches_of(datasets.digits().x_test)
    order = torch.rand(len(patches), 16, generator=torch.Generator().manual_seed(0)).argsort(1)
    hidden = torch.zeros(len(patches), 16, dtype=torch.bool).scatter(1, order[:, 8:], True)
    predicted = module.net(patches, order)  # type: ignore[operator]
    # The variance is that around the mean of each pixel.
    mean = (patches * hidden[:, :, None]).sum(0) / hidden.sum(0)[:, None]
    return explained((predicted - mean)[hidden], (patches - mean)[hidden])


class AutoencoderNet(nn.Module):
    """Encoder to mean and log variance of 10 latent numbers, and decoder to logits of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(196, 128), nn.ReLU(), nn.Linear(128, 20))
        self.decoder = nn.Sequential(nn.Linear(10, 128), nn.ReLU(), nn.Linear(128, 196))


def pixels(x: Tensor) -> Tensor:
    """Grey values from 0 to 1."""
    return (x.flatten(1) * 0.28 + 0.13).clamp(0, 1)


class Autoencoder(NetModule):
    """The negative evidence lower bound of an image, summed over its pixels."""

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        x = pixels(batch[0])
        mean, log_var = self.net.encoder(x).chunk(2, 1)  # type: ignore[operator]
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        logits = self.net.decoder(z)  # type: ignore[operator]
        divergence = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum()
        return (binary_cross_entropy_with_logits(logits, x, reduction="sum") + divergence) / len(x)

    def configure_optimizers(self) -> Optimizer:
        return Adam(self.parameters(), lr=self.lr)


@torch.no_grad()
def reconstruction_score(module: pl.LightningModule) -> float:
    """Explained variance of the pixels of test images, decoded from the mean of their code."""
    x = pixels(datasets.mnist().x_test)
    mean = module.net.encoder(x).chunk(2, 1)[0]  # type: ignore[operator, union-attr]
    return explained(module.net.decoder(mean).sigmoid(), x)  # type: ignore[operator, union-attr]


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="contrastive-cnn-adamw-cosine",
        module=lambda lr: Contrastive(ContrastiveNet(), lr),
        loader=batches(lambda: datasets.mnist()[:1], 128),
        epochs=8,
        score=neighbour_accuracy,
        naive_lr=1e-3,
        default_lr=5e-4,
        exponents=(-4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0),
    ),
    LRTask(
        name="masked-transformer-adamw-warmup",
        module=lambda lr: Masked(MaskedNet(), lr),
        loader=batches(lambda: datasets.digits()[:1], 32),
        epochs=10,
        score=masked_score,
        naive_lr=1e-3,
        default_lr=1.5e-4,
        exponents=(-4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5),
    ),
    LRTask(
        name="autoencoder-adam-accumulation",
        module=lambda lr: Autoencoder(AutoencoderNet(), lr),
        loader=batches(lambda: datasets.mnist()[:1], 32),
        epochs=8,
        score=reconstruction_score,
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=(-4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5),
        options={"accumulate_grad_batches": 2},
    ),
)
