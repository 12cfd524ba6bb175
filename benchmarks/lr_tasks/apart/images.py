"""Apart tasks with images: clocks, scripts, places in photos, sums of digits, moved photos, heights of terrains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import Adamax, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from benchmarks.lr_tasks.apart import images_data as data
from benchmarks.lr_tasks.apart import images_nets as nets
from benchmarks.lr_tasks.held_out.common import NetModule, accuracy_on, batches, each_step, warm_up_cosine
from benchmarks.lr_tasks.sealed.common import adamw, explained_on, half_decades, momentum, nesterov, one_cycle
from benchmarks.lr_tasks.shaping.module import Training, cosine, warmup_linear
from benchmarks.lr_tasks.task import LRTask


def half_and_three_quarters(optimizer: Optimizer, steps: int) -> LRScheduler:
    """A tenth of the rate after a half, and again after three quarters of the training."""
    return MultiStepLR(optimizer, [steps // 2, 3 * steps // 4], gamma=0.1)


def adamax(params: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """Adamax with its defaults."""
    return Adamax(params, lr=lr)


class Places(NetModule):
    """Half of the pieces are mirrored, all get another brightness; AdamW with much decay, a warm-up and a cosine."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x) + 0.2 * torch.randn(len(x), 1, 1, 1)
        return cross_entropy(self.net(x), labels, label_smoothing=0.1)

    def configure_optimizers(self) -> Any:
        optimizer = AdamW(self.parameters(), lr=self.lr, weight_decay=0.2)
        return each_step(optimizer, warm_up_cosine(optimizer, self.total_steps))


class Moved(Training):
    """Half of the pairs are mirrored, and how far they are moved with them."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, moves = batch
        is_mirrored = torch.rand(len(x), 1) < 0.5
        moves = torch.where(is_mirrored, moves * moves.new_tensor([1, -1]), moves)
        return self.loss(self(torch.where(is_mirrored[:, :, None, None], x.flip(3), x)), moves)


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="clocks-densenet-nesterov-multistep",
        module=lambda lr: Training(nets.dense_net(), cross_entropy, lr, nesterov, half_and_three_quarters),
        loader=batches(lambda: data.clocks()[:2], 32),
        epochs=5,
        score=accuracy_on(lambda: data.clocks()[2:]),
        naive_lr=0.1,
        default_lr=0.1,
        exponents=half_decades(-3, 0.5),
    ),
    LRTask(
        name="scripts-lite0-momentum-warmup-linear",
        module=lambda lr: Training(nets.stem_and_block(), cross_entropy, lr, momentum, warmup_linear),
        loader=batches(lambda: data.scripts()[:2], 8),
        epochs=7,
        score=accuracy_on(lambda: data.scripts()[2:]),
        naive_lr=0.1,
        default_lr=0.01,
        exponents=half_decades(-3, 0.5),
    ),
    LRTask(
        name="places-gmlp-adamw-decay-clipped",
        module=lambda lr: Places(nets.GatedMLP(), lr),
        loader=batches(lambda: data.places()[:2], 32),
        epochs=10,
        score=accuracy_on(lambda: data.places()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -1),
        options={"gradient_clip_val": 1.0},
    ),
    LRTask(
        name="sums-batchnorm-mlp-adamax-constant",
        module=lambda lr: Training(nets.batch_norm_mlp(), cross_entropy, lr, adamax, None),
        loader=batches(lambda: data.sums()[:2], 128),
        epochs=10,
        score=accuracy_on(lambda: data.sums()[2:]),
        naive_lr=1e-3,
        default_lr=2e-3,
        exponents=half_decades(-3.5, 0),
    ),
    LRTask(
        name="moved-flownet-adamw-onecycle",
        module=lambda lr: Moved(nets.flow_net(), mse_loss, lr, adamw, one_cycle),
        loader=batches(lambda: data.moved_pieces()[:2], 16),
        epochs=6,
        score=explained_on(data.moved_pieces),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -1),
    ),
    LRTask(
        name="heights-decoder-momentum-cosine",
        module=lambda lr: Training(nets.Decoder(), mse_loss, lr, momentum, cosine),
        loader=batches(lambda: data.terrains()[:2], 16),
        epochs=4,
        score=explained_on(data.terrains),
        naive_lr=0.1,
        default_lr=0.05,
        exponents=half_decades(-3.5, 0),
    ),
)
