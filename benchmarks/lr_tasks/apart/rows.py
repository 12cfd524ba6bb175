"""Tasks of the eighth group with sets and rows: kinds of hands, digits from measures, and balls on springs."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from benchmarks.lr_tasks.apart import rows_data as data
from benchmarks.lr_tasks.held_out.common import NetModule, accuracy_on, batches, each_step, explained
from benchmarks.lr_tasks.sealed.common import Params, half_decades, one_cycle
from benchmarks.lr_tasks.shaping.module import Training, cosine
from benchmarks.lr_tasks.task import LRTask


class DeepSet(nn.Module):
    """An MLP for each card, the sum over the cards, and an MLP for the sum."""

    def __init__(self, dim: int = 32, hidden: int = 96) -> None:
        super().__init__()
        self.embed = nn.Embedding(52, dim)
        self.each = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        first = (nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.all = nn.Sequential(*first, nn.Linear(hidden, data.HANDS))

    def forward(self, cards: Tensor) -> Tensor:
        logits: Tensor = self.all(self.each(self.embed(cards)).sum(1))
        return logits


def decayed(params: Params, lr: float) -> Optimizer:
    """AdamW with some weight decay."""
    return AdamW(params, lr=lr, weight_decay=0.05)


class Maxout(nn.Module):
    """The greatest of three linear maps, for each output."""

    def __init__(self, n_in: int, n_out: int, pieces: int = 3) -> None:
        super().__init__()
        self.linear, self.pieces = nn.Linear(n_in, n_out * pieces), pieces

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(1, (-1, self.pieces)).amax(2)


def maxout_net(hidden: int = 64) -> nn.Module:
    """Two layers of maxout with dropout."""
    first = (Maxout(data.MEASURES, hidden), nn.Dropout(0.3), Maxout(hidden, hidden), nn.Dropout(0.3))
    return nn.Sequential(*first, nn.Linear(hidden, 10))


def momentum(params: Params, lr: float) -> Optimizer:
    """SGD with momentum and weight decay."""
    return SGD(params, lr=lr, momentum=0.9, weight_decay=1e-3)


def two_steps(optimizer: Optimizer, steps: int) -> LRScheduler:
    """A tenth of the rate after half of the training, and a hundredth after three quarters."""
    return MultiStepLR(optimizer, [steps // 2, steps * 3 // 4], gamma=0.1)


class InteractionNetwork(nn.Module):
    """What each pair of balls does to each other, by an MLP, and an acceleration from the sum, by another one."""

    def __init__(self, hidden: int = 48) -> None:
        super().__init__()
        pair = (nn.Linear(9, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 24))
        self.pair = nn.Sequential(*pair)
        self.ball = nn.Sequential(nn.Linear(28, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.last = nn.Linear(hidden, 2)

    def forward(self, states: Tensor, springs: Tensor) -> Tensor:
        step = states[:, :, None] - states[:, None]
        distance = step[..., :2].norm(dim=3, keepdim=True)
        kind = one_hot(springs, 3).float()
        effects = self.pair(torch.cat([step, distance, distance.square(), kind], 3))
        others = ~torch.eye(data.BALLS, dtype=torch.bool, device=states.device)
        effect = (effects * others[..., None]).sum(2)
        acceleration: Tensor = self.last(self.ball(torch.cat([states, effect], 2)))
        return acceleration


class Accelerations(NetModule):
    """Mean squared error of the accelerations; Adam along a half cosine."""

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        states, springs, accelerations = batch
        return mse_loss(self.net(states, springs), accelerations)

    def configure_optimizers(self) -> Any:
        optimizer = Adam(self.parameters(), lr=self.lr)
        return each_step(optimizer, cosine(optimizer, self.total_steps))


@torch.no_grad()
def acceleration_score(module: pl.LightningModule) -> float:
    """Explained variance of the accelerations in test scenes."""
    states, springs, accelerations = data.springs()[1]
    return explained(module.net(states, springs), accelerations)  # type: ignore[operator]


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="hands-deep-set-adamw-onecycle",
        module=lambda lr: Training(DeepSet(), cross_entropy, lr, decayed, one_cycle),
        loader=batches(lambda: data.hands()[:2], 128),
        epochs=15,
        score=accuracy_on(lambda: data.hands()[2:]),
        naive_lr=1e-3,
        default_lr=3e-3,
        exponents=half_decades(-4, -0.5),
    ),
    LRTask(
        name="digit-measures-maxout-momentum-steps",
        module=lambda lr: Training(maxout_net(), cross_entropy, lr, momentum, two_steps),
        loader=batches(lambda: data.digit_measures()[:2], 50),
        epochs=16,
        score=accuracy_on(lambda: data.digit_measures()[2:]),
        naive_lr=0.1,
        default_lr=0.05,
        exponents=half_decades(-3.5, 0),
    ),
    LRTask(
        name="springs-interaction-network-adam-cosine",
        module=lambda lr: Accelerations(InteractionNetwork(), lr),
        loader=batches(lambda: data.springs()[0], 32),
        epochs=10,
        score=acceleration_score,
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4, -0.5),
    ),
)
