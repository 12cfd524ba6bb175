"""Hidden tasks with images: capitals, Cyrillic letters, digits among scraps, places in photos, corners."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss
from torch.optim import SGD, Optimizer

from benchmarks.lr_tasks.apart import images_data as apart_images_data
from benchmarks.lr_tasks.blind import images_photos as blind_images_photos
from benchmarks.lr_tasks.fresh import data as fresh_data
from benchmarks.lr_tasks.held_out.common import accuracy_on, batches
from benchmarks.lr_tasks.hidden import images_nets as nets
from benchmarks.lr_tasks.reserved import data as reserved_data
from benchmarks.lr_tasks.sealed.common import (
    Params,
    adam,
    decayed,
    explained_on,
    half_decades,
    nesterov,
    one_cycle,
    radam,
    thirds,
)
from benchmarks.lr_tasks.shaping.module import Training, polynomial, warmup_linear
from benchmarks.lr_tasks.task import LRTask


def momentum(params: Params, lr: float) -> Optimizer:
    """SGD with momentum and weight decay."""
    return SGD(params, lr=lr, momentum=0.9, weight_decay=1e-3)


class Shifted(Training):
    """Moves the images of a batch by up to two pixels."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        down, right = torch.randint(-2, 3, (2,)).tolist()
        return self.loss(self(x.roll((down, right), (2, 3))), labels)


class Mirrored(Training):
    """Mirrors half of the images."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        is_mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
        return self.loss(self(torch.where(is_mirrored, x.flip(3), x)), labels)


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="capitals-mobilenet-adamw-decay-warmup-linear",
        module=lambda lr: Training(nets.mobile_net(), cross_entropy, lr, decayed, warmup_linear),
        loader=batches(lambda: fresh_data.capitals()[:2], 24),
        epochs=15,
        score=accuracy_on(lambda: fresh_data.capitals()[2:]),
        naive_lr=1e-3,
        default_lr=3e-3,
        exponents=half_decades(-4, -0.5),
    ),
    LRTask(
        name="cyrillic-wide-resnet-nesterov-onecycle",
        module=lambda lr: Shifted(nets.wide_resnet(), cross_entropy, lr, nesterov, one_cycle),
        loader=batches(lambda: reserved_data.cyrillic_letters()[:2], 24),
        epochs=11,
        score=accuracy_on(lambda: reserved_data.cyrillic_letters()[2:]),
        naive_lr=0.1,
        default_lr=0.1,
        exponents=half_decades(-3, 0.5),
    ),
    LRTask(
        name="corners-coordinate-cnn-adam-thirds",
        module=lambda lr: Training(nets.CoordinateCNN(), smooth_l1_loss, lr, adam, thirds),
        loader=batches(lambda: blind_images_photos.sheets()[:2], 64),
        epochs=10,
        score=explained_on(blind_images_photos.sheets),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4, -1),
    ),
    LRTask(
        name="places-lite0-momentum-poly",
        module=lambda lr: Mirrored(nets.stem_and_two_blocks(), cross_entropy, lr, momentum, polynomial),
        loader=batches(lambda: apart_images_data.places()[:2], 16),
        epochs=4,
        score=accuracy_on(lambda: apart_images_data.places()[2:]),
        naive_lr=0.1,
        default_lr=0.01,
        exponents=half_decades(-3.5, -0.5),
    ),
    LRTask(
        name="scraps-squeezenet-radam-constant",
        module=lambda lr: Training(nets.squeeze_net(), cross_entropy, lr, radam, None),
        loader=batches(lambda: blind_images_photos.digits_among_scraps()[:2], 32),
        epochs=8,
        score=accuracy_on(lambda: blind_images_photos.digits_among_scraps()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-3.5, -0.5),
    ),
)
