"""Blind tasks with images: symbols, damaged photos, captchas, fonts, digits among scraps, mosaics, corners."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import SGD, Adam, NAdam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR

from benchmarks.lr_tasks.blind import images_glyphs as glyphs
from benchmarks.lr_tasks.blind import images_nets as nets
from benchmarks.lr_tasks.blind import images_photos as photos
from benchmarks.lr_tasks.held_out.common import NetModule, accuracy_on, batches, each_step, warm_up_cosine
from benchmarks.lr_tasks.sealed.common import adam, explained_on, half_decades, momentum, one_cycle, strongly_decayed
from benchmarks.lr_tasks.shaping.module import Training, warmup_cosine, warmup_linear
from benchmarks.lr_tasks.task import LRTask


def nadamw(params: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """NAdam with decoupled weight decay, as ConvNeXt's."""
    return NAdam(params, lr=lr, weight_decay=0.05, decoupled_weight_decay=True)


class Mirrored(NetModule):
    """Half of the images are mirrored; SGD with Nesterov's momentum, a short warm-up and a cosine."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, kinds = batch
        is_mirrored = torch.rand(len(x), 1, 1, 1) < 0.5
        return cross_entropy(self.net(torch.where(is_mirrored, x.flip(3), x)), kinds)

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=self.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        return each_step(optimizer, warm_up_cosine(optimizer, self.total_steps, 0.05))


@torch.no_grad()
def letters_right(module: pl.LightningModule) -> float:
    """Letters that are read rightly, in percent."""
    x, y = glyphs.captchas()[2:]
    found: Tensor = module.net(x)  # type: ignore[operator]
    return 100.0 * float((found.argmax(1) == y).float().mean())


class FineTuning(NetModule):
    """Cross entropy, Adam, and a tenth of the rate after each three epochs."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        return cross_entropy(self.net(x), labels)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        optimizer = Adam(self.parameters(), lr=self.lr, weight_decay=1e-5)
        return [optimizer], [StepLR(optimizer, 3, gamma=0.1)]


def cosine_to_floor(optimizer: Optimizer, steps: int) -> LRScheduler:
    """A half cosine that ends at a hundredth of the rate."""
    return CosineAnnealingLR(optimizer, steps, eta_min=optimizer.param_groups[0]["lr"] / 100)


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="symbols-convnext-nadamw-warmup-cosine",
        module=lambda lr: Training(nets.conv_next(), cross_entropy, lr, nadamw, warmup_cosine),
        loader=batches(lambda: glyphs.symbols()[:2], 32),
        epochs=11,
        score=accuracy_on(lambda: glyphs.symbols()[2:]),
        naive_lr=1e-3,
        default_lr=4e-3,
        exponents=half_decades(-4, -0.5),
    ),
    LRTask(
        name="damaged-photos-resnet-nesterov-warmup-cosine",
        module=lambda lr: Mirrored(nets.resnet(), lr),
        loader=batches(lambda: photos.damaged_pieces()[:2], 32),
        epochs=6,
        score=accuracy_on(lambda: photos.damaged_pieces()[2:]),
        naive_lr=0.1,
        default_lr=0.1,
        exponents=half_decades(-3, 0.5),
    ),
    LRTask(
        name="captcha-cnn-adam-constant",
        module=lambda lr: Training(nets.captcha_cnn(), cross_entropy, lr, adam, None),
        loader=batches(lambda: glyphs.captchas()[:2], 32),
        epochs=9,
        score=letters_right,
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -1),
    ),
    LRTask(
        name="fonts-lite0-adam-epoch-steps",
        module=lambda lr: FineTuning(nets.two_blocks(), lr),
        loader=batches(lambda: glyphs.fonts()[:2], 8),
        epochs=7,
        score=accuracy_on(lambda: glyphs.fonts()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4, -0.5),
    ),
    LRTask(
        name="scraps-conv-transformer-adamw-decay-onecycle",
        module=lambda lr: Training(nets.ConvTransformer(), cross_entropy, lr, strongly_decayed, one_cycle),
        loader=batches(lambda: photos.digits_among_scraps()[:2], 32),
        epochs=8,
        score=accuracy_on(lambda: photos.digits_among_scraps()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -1),
    ),
    LRTask(
        name="mosaics-pixelshuffle-cnn-adam-cosine",
        module=lambda lr: Training(nets.demosaicer(), mse_loss, lr, adam, cosine_to_floor),
        loader=batches(lambda: photos.mosaics()[:2], 16),
        epochs=6,
        score=explained_on(photos.mosaics),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -1),
    ),
    LRTask(
        name="corners-excitation-cnn-momentum-linear-clipped",
        module=lambda lr: Training(nets.corner_finder(), mse_loss, lr, momentum, warmup_linear),
        loader=batches(lambda: photos.sheets()[:2], 32),
        epochs=5,
        score=explained_on(photos.sheets),
        naive_lr=0.1,
        default_lr=0.01,
        exponents=half_decades(-3, 0.5),
        options={"gradient_clip_val": 1.0},
    ),
)
