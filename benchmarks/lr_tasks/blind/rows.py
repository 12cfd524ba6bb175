"""Blind tasks with tables: letters as sixteen numbers, and the height of a landscape."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from benchmarks.lr_tasks.blind import rows_data as data
from benchmarks.lr_tasks.held_out.common import accuracy_on, batches
from benchmarks.lr_tasks.sealed.common import explained_on, half_decades, nesterov, one_cycle, radam
from benchmarks.lr_tasks.shaping.module import Training
from benchmarks.lr_tasks.task import LRTask


def self_normalizing_net() -> nn.Module:
    """Four layers with SELU, their initial weights, and alpha dropout."""
    layers: list[nn.Module] = []
    for n_in, n_out in ((16, 96), (96, 96), (96, 96), (96, 96), (96, 26)):
        linear = nn.Linear(n_in, n_out)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="linear")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.SELU(), nn.AlphaDropout(0.05)]
    return nn.Sequential(*layers[:-2])


class Waves(nn.Module):
    """The cosine and sine of a place along random directions, as inputs of an MLP with GELU."""

    directions: Tensor

    def __init__(self, waves: int = 48, hidden: int = 96) -> None:
        super().__init__()
        self.register_buffer("directions", 3.0 * torch.randn(2, waves))
        layers = (nn.Linear(2 * waves, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 1))
        self.mlp = nn.Sequential(*layers)

    def forward(self, places: Tensor) -> Tensor:
        phase = math.pi / 2 * places @ self.directions
        height: Tensor = self.mlp(torch.cat([phase.cos(), phase.sin()], 1))
        return height


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="letter-table-selu-nesterov-onecycle",
        module=lambda lr: Training(self_normalizing_net(), cross_entropy, lr, nesterov, one_cycle),
        loader=batches(lambda: data.letter_statistics()[:2], 64),
        epochs=25,
        score=accuracy_on(lambda: data.letter_statistics()[2:]),
        naive_lr=0.1,
        default_lr=0.05,
        exponents=half_decades(-3.5, 0.5),
    ),
    LRTask(
        name="landscape-waves-radam-constant",
        module=lambda lr: Training(Waves(), mse_loss, lr, radam, None),
        loader=batches(lambda: data.elevations()[:2], 256),
        epochs=40,
        score=explained_on(data.elevations),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -0.5),
    ),
)
