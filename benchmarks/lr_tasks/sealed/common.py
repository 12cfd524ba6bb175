"""What the sealed tasks share: optimizers, schedules and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RAdam
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from benchmarks.datasets import Split
from benchmarks.lr_tasks.held_out.common import explained

Params = Iterable[nn.Parameter]


def momentum(params: Params, lr: float) -> Optimizer:
    """SGD with momentum and a little weight decay."""
    return SGD(params, lr=lr, momentum=0.9, weight_decay=1e-4)


def nesterov(params: Params, lr: float) -> Optimizer:
    """SGD with Nesterov's momentum and the weight decay of many residual networks."""
    return SGD(params, lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)


def nadam(params: Params, lr: float) -> Optimizer:
    """NAdam with its defaults."""
    return NAdam(params, lr=lr)


def radam(params: Params, lr: float) -> Optimizer:
    """RAdam with its defaults."""
    return RAdam(params, lr=lr)


def adam(params: Params, lr: float) -> Optimizer:
    """Adam with its defaults."""
    return Adam(params, lr=lr)


def adamw(params: Params, lr: float) -> Optimizer:
    """AdamW with the weight decay of its default."""
    return AdamW(params, lr=lr, weight_decay=0.01)


def decayed(params: Params, lr: float) -> Optimizer:
    """AdamW with rather strong weight decay."""
    return AdamW(params, lr=lr, weight_decay=0.1)


def strongly_decayed(params: Params, lr: float) -> Optimizer:
    """AdamW with strong weight decay."""
    return AdamW(params, lr=lr, weight_decay=0.3)


def thirds(optimizer: Optimizer, steps: int) -> LRScheduler:
    """A fifth of the rate after each third of the training."""
    return StepLR(optimizer, max(1, steps // 3), gamma=0.2)


def one_cycle(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Up to the rate over 30 % of the training, then down."""
    return OneCycleLR(optimizer, max_lr=optimizer.param_groups[0]["lr"], total_steps=steps)


def explained_on(data: Callable[[], Split]) -> Callable[[pl.LightningModule], float]:
    """The explained variance of a module's output on test samples."""

    @torch.no_grad()
    def score(module: pl.LightningModule) -> float:
        _, _, x, y = data()
        output: Tensor = module(x)
        return explained(output, y)

    return score


def half_decades(low: float, high: float) -> tuple[float, ...]:
    """The exponents from one to another, both included."""
    return tuple(low + 0.5 * i for i in range(round(2 * (high - low)) + 1))
