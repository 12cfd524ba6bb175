"""What the held-out tasks share: a module with a network and a rate, loaders, schedules, and scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, TensorDataset


class NetModule(pl.LightningModule):
    """A network and its learning rate; subclasses write the loss and the optimizer."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__()
        self.net = net
        self.lr = lr

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return int(self.trainer.estimated_stepping_batches)


def batches(data: Callable[[], tuple[Tensor, ...]], batch_size: int) -> Callable[[], DataLoader[Any]]:
    """A function that returns a loader of shuffled batches of equal size."""
    return lambda: DataLoader(TensorDataset(*data()), batch_size=batch_size, shuffle=True, drop_last=True)


def each_step(optimizer: Optimizer, schedule: LRScheduler) -> dict[str, Any]:
    """What ``configure_optimizers`` returns for a schedule that is stepped after each optimizer step."""
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def warm_up_cosine(optimizer: Optimizer, steps: int, warm_up: float = 0.1, floor: float = 0.0) -> LRScheduler:
    """A linear rise over a share of the training, then a cosine down to a share of the peak."""
    rise = max(1, round(warm_up * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        progress = min(1.0, (step - rise) / max(1, steps - rise))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def percent_equal(logits: Tensor, labels: Tensor) -> float:
    """Accuracy in percent."""
    return 100.0 * float((logits.argmax(-1) == labels).float().mean())


def explained(prediction: Tensor, target: Tensor) -> float:
    """Explained variance in percent, not below 0."""
    residual = float((prediction - target).square().mean())
    total = float((target - target.mean(0)).square().mean())
    value = 100.0 * (1.0 - residual / total)
    return max(0.0, value) if math.isfinite(value) else 0.0


def accuracy_on(data: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[pl.LightningModule], float]:
    """The accuracy of a module's network on test samples."""

    @torch.no_grad()
    def score(module: pl.LightningModule) -> float:
        x, y = data()
        return percent_equal(module.net(x), y)  # type: ignore[operator]

    return score
