"""Tasks of the ninth group with values: the height of a landscape, and stars that users give."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Optimizer, RMSprop

from benchmarks.lr_tasks.blind import rows_data as blind_rows_data
from benchmarks.lr_tasks.held_out.common import batches
from benchmarks.lr_tasks.reserved import data as reserved_data
from benchmarks.lr_tasks.sealed.common import Params, adamw, explained_on, half_decades
from benchmarks.lr_tasks.shaping.module import Training, cosine, warmup_linear
from benchmarks.lr_tasks.task import LRTask


class Sine(nn.Module):
    """A linear map and the sine of some times its output, with the initial weights of SIREN."""

    def __init__(self, n_in: int, n_out: int, frequency: float, *, is_first: bool = False) -> None:
        super().__init__()
        self.linear, self.frequency = nn.Linear(n_in, n_out), frequency
        bound = 1 / n_in if is_first else (6 / n_in) ** 0.5 / frequency
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return (self.frequency * self.linear(x)).sin()


def siren(hidden: int = 64) -> nn.Module:
    """Three layers of sines for a height at a place."""
    layers = (Sine(2, hidden, 10.0, is_first=True), Sine(hidden, hidden, 10.0), Sine(hidden, hidden, 10.0))
    return nn.Sequential(*layers, nn.Linear(hidden, 1))


class NeuralFilter(nn.Module):
    """Vectors of a user and an item; their product and an MLP of both give the stars."""

    def __init__(self, dim: int = 8, hidden: int = 32) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(reserved_data.USERS, dim), nn.Embedding(reserved_data.ITEMS, dim)
        for embedding in (self.users, self.items):
            nn.init.normal_(embedding.weight, std=0.3)
        first = (nn.Linear(3 * dim, hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, hidden), nn.ReLU())
        self.mlp = nn.Sequential(*first, nn.Linear(hidden, 1))

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = self.users(pairs[:, 0]), self.items(pairs[:, 1])
        stars: Tensor = 3.0 + self.mlp(torch.cat([user, item, user * item], 1))
        return stars


def rmsprop(params: Params, lr: float) -> Optimizer:
    """RMSprop with a little weight decay in its gradient."""
    return RMSprop(params, lr=lr, weight_decay=1e-4)


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="landscape-siren-adamw-cosine",
        module=lambda lr: Training(siren(), mse_loss, lr, adamw, cosine),
        loader=batches(lambda: blind_rows_data.elevations()[:2], 256),
        epochs=24,
        score=explained_on(blind_rows_data.elevations),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -1),
    ),
    LRTask(
        name="stars-neural-filter-rmsprop-warmup-linear",
        module=lambda lr: Training(NeuralFilter(), mse_loss, lr, rmsprop, warmup_linear),
        loader=batches(lambda: reserved_data.stars()[:2], 128),
        epochs=16,
        score=explained_on(reserved_data.stars),
        naive_lr=1e-3,
        default_lr=2e-3,
        exponents=half_decades(-4, -0.5),
    ),
)
