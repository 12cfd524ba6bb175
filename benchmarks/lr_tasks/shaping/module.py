"""The module of the tasks, and its schedules over the whole training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, PolynomialLR, SequentialLR

Loss = Callable[[Tensor, Tensor], Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter], float], Optimizer]
MakeSchedule = Callable[[Optimizer, int], LRScheduler]


class Training(pl.LightningModule):
    """What a user writes: the rate in ``lr``, a loss per batch, and optionally a schedule over the steps."""

    def __init__(
        self, net: nn.Module, loss: Loss, lr: float, optimizer: MakeOptimizer, schedule: MakeSchedule | None
    ) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.lr = lr
        self.make_optimizer = optimizer
        self.make_schedule = schedule

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        return output

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return self.loss(self(x), y)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters(), self.lr)
        if self.make_schedule is None:
            return optimizer
        schedule = self.make_schedule(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def cross_entropy_and_dice(logits: Tensor, mask: Tensor) -> Tensor:
    """The usual loss of segmentation: cross entropy per pixel, and 1 - the Dice coefficient of the batch."""
    found = logits.sigmoid()
    dice = (2 * (found * mask).sum() + 1) / (found.sum() + mask.sum() + 1)
    return binary_cross_entropy_with_logits(logits, mask) + 1 - dice


def cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """From the rate to 0 along a half cosine."""
    return CosineAnnealingLR(optimizer, steps)


def polynomial(optimizer: Optimizer, steps: int) -> LRScheduler:
    """From the rate to 0 with the power 0.9, as usual in segmentation."""
    return PolynomialLR(optimizer, steps, power=0.9)


def warmup_cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Linear warm-up over a tenth of the training, then a half cosine."""
    warmup = max(1, steps // 10)
    parts: list[LRScheduler] = [
        LinearLR(optimizer, 0.01, total_iters=warmup),
        CosineAnnealingLR(optimizer, steps - warmup),
    ]
    return SequentialLR(optimizer, parts, milestones=[warmup])


def warmup_linear(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Linear warm-up over a tenth of the training, then linear decay to 0: the schedule of transformers."""
    import transformers

    make: Callable[[Optimizer, int, int], LRScheduler] = transformers.get_linear_schedule_with_warmup
    return make(optimizer, max(1, steps // 10), steps)
