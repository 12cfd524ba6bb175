"""Tasks of the tenth group with values: loads of the next hours, and torques of an arm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from benchmarks.lr_tasks.closed import rows_data as data
from benchmarks.lr_tasks.held_out.common import batches
from benchmarks.lr_tasks.sealed.common import Params, adamw, explained_on, half_decades
from benchmarks.lr_tasks.shaping.module import Training, warmup_linear
from benchmarks.lr_tasks.task import LRTask


class Block(nn.Module):
    """An MLP that explains a part of the past and adds a part of the future."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        layers = (nn.Linear(data.PAST, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, 16), nn.Linear(16, data.PAST + data.FUTURE))

    def forward(self, past: Tensor) -> Tensor:
        both: Tensor = self.layers(past)
        return both


class BasisExpansion(nn.Module):
    """Blocks of which each sees what those before it left of the past, as in N-BEATS."""

    def __init__(self, hidden: int = 64, blocks: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(hidden) for _ in range(blocks)])

    def forward(self, past: Tensor) -> Tensor:
        future = past.new_zeros(len(past), data.FUTURE)
        for block in self.blocks:
            explained, added = block(past).split([data.PAST, data.FUTURE], 1)
            past, future = past - explained, future + added
        return future


def fifths(optimizer: Optimizer, steps: int) -> LRScheduler:
    """A fifth of the rate after a half and after four fifths of the training."""
    return MultiStepLR(optimizer, [steps // 2, 4 * steps // 5], gamma=0.2)


class Experts(nn.Module):
    """The mean of the outputs of small MLPs, weighted by a gate that sees the same input."""

    def __init__(self, n_in: int = 9, n_out: int = 3, experts: int = 6, hidden: int = 32) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(n_in, 64), nn.ReLU())
        self.gate, self.shape = nn.Linear(n_in, experts), (experts, hidden)
        self.inner = nn.Linear(64, experts * hidden)
        self.outer = nn.Parameter(torch.randn(experts, hidden, n_out) / hidden**0.5)
        self.shift = nn.Parameter(torch.zeros(experts, n_out))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.inner(self.first(x)).relu().unflatten(1, self.shape)
        outputs = torch.einsum("beh,eho->beo", inner, self.outer) + self.shift
        return (self.gate(x).softmax(1)[..., None] * outputs).sum(1)


def momentum(params: Params, lr: float) -> Optimizer:
    """SGD with momentum and very little weight decay."""
    return SGD(params, lr=lr, momentum=0.9, weight_decay=1e-5)


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="loads-nbeats-adamw-steps-clipped",
        module=lambda lr: Training(BasisExpansion(), mse_loss, lr, adamw, fifths),
        loader=batches(lambda: data.loads()[:2], 128),
        epochs=10,
        score=explained_on(data.loads),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -1),
        options={"gradient_clip_val": 1.0},
    ),
    LRTask(
        name="arm-experts-momentum-warmup-linear",
        module=lambda lr: Training(Experts(), mse_loss, lr, momentum, warmup_linear),
        loader=batches(lambda: data.arm()[:2], 16),
        epochs=7,
        score=explained_on(data.arm),
        naive_lr=0.1,
        default_lr=0.01,
        exponents=half_decades(-3.5, 0),
    ),
)
