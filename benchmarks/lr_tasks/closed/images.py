"""Closed tasks with images: signs, Armenian letters, pictograms, house numbers, scans, and cells."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from benchmarks.lr_tasks.closed import images_data as data
from benchmarks.lr_tasks.closed import images_nets as nets
from benchmarks.lr_tasks.held_out.common import accuracy_on, batches
from benchmarks.lr_tasks.sealed.common import (
    adam,
    adamw,
    explained_on,
    half_decades,
    momentum,
    nadam,
    nesterov,
    one_cycle,
    strongly_decayed,
    thirds,
)
from benchmarks.lr_tasks.shaping.module import Training, polynomial, warmup_cosine
from benchmarks.lr_tasks.task import LRTask


def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy with a tenth of the labels spread over all classes."""
    return cross_entropy(logits, labels, label_smoothing=0.1)


class Moved(Training):
    """Moves each batch by up to a pixel, and changes the brightness of each image."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        down, right = torch.randint(-1, 2, (2,)).tolist()
        light = 0.2 * torch.randn(len(x), 1, 1, 1, device=x.device)
        return self.loss(self(x.roll((down, right), (2, 3)) + light), labels)


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="house-numbers-cnn-nadam-constant",
        module=lambda lr: Training(nets.number_cnn(), cross_entropy, lr, nadam, None),
        loader=batches(lambda: data.house_numbers()[:2], 25),
        epochs=6,
        score=accuracy_on(lambda: data.house_numbers()[2:]),
        naive_lr=1e-3,
        default_lr=2e-3,
        exponents=half_decades(-4.5, -1.5),
    ),
    LRTask(
        name="pictograms-lite0-adamw-onecycle",
        module=lambda lr: Training(nets.stem_and_two_blocks(), cross_entropy, lr, adamw, one_cycle),
        loader=batches(lambda: data.pictograms()[:2], 16),
        epochs=14,
        score=accuracy_on(lambda: data.pictograms()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-3.5, -0.5),
    ),
    LRTask(
        name="scans-unet-adam-thirds",
        module=lambda lr: Training(nets.ScanCleaner(), mse_loss, lr, adam, thirds),
        loader=batches(lambda: data.scans()[:2], 8),
        epochs=3,
        score=explained_on(data.scans),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4, -1),
    ),
    LRTask(
        name="armenian-poolformer-adamw-decay-warmup-cosine",
        module=lambda lr: Training(nets.pool_former(), smoothed, lr, strongly_decayed, warmup_cosine),
        loader=batches(lambda: data.armenian_letters()[:2], 32),
        epochs=10,
        score=accuracy_on(lambda: data.armenian_letters()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-3.5, -0.5),
    ),
    LRTask(
        name="cells-batchnorm-cnn-momentum-poly-clipped",
        module=lambda lr: Training(nets.cell_counter(), mse_loss, lr, momentum, polynomial),
        loader=batches(lambda: data.cells()[:2], 32),
        epochs=5,
        score=explained_on(data.cells),
        naive_lr=0.1,
        default_lr=0.01,
        exponents=half_decades(-3.5, 0),
        options={"gradient_clip_val": 1.0},
    ),
    LRTask(
        name="signs-shufflenet-nesterov-warmup-cosine",
        module=lambda lr: Moved(nets.shuffle_net(), cross_entropy, lr, nesterov, warmup_cosine),
        loader=batches(lambda: data.signs()[:2], 32),
        epochs=8,
        score=accuracy_on(lambda: data.signs()[2:]),
        naive_lr=0.1,
        default_lr=0.1,
        exponents=half_decades(-2.5, 0.5),
    ),
)
