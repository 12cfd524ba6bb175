"""A blind task with sequences: what somebody does, from a sensor of acceleration."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from benchmarks.datasets import Split
from benchmarks.lr_tasks.held_out.common import accuracy_on, batches
from benchmarks.lr_tasks.sealed.common import Params, half_decades
from benchmarks.lr_tasks.shaping.module import Training, cosine
from benchmarks.lr_tasks.task import LRTask

#: Samples of a window (20 a second), and what is done.
WINDOW, ACTIVITIES = 64, 6


def _window(random: np.random.RandomState, activity: int, person: np.ndarray) -> np.ndarray:
    """Acceleration along three axes, in units of gravity: walking, running, stairs up and down, cycling, standing."""
    pace = np.array([1.8, 2.6, 1.5, 1.75, 1.3, 0.3])[activity] * person[0] * random.normal(1, 0.06)
    strength = np.array([0.35, 0.9, 0.3, 0.45, 0.15, 0.03])[activity] * person[1] * random.lognormal(0, 0.2)
    second = np.array([0.5, 0.3, 0.25, 0.8, 0.2, 0.1])[activity] * random.lognormal(0, 0.3)
    lean = np.array([0.05, 0.2, 0.25, -0.1, 0.45, 0.0])[activity] + random.normal(0, 0.12)
    phase = 2 * np.pi * (np.cumsum(pace * random.normal(1, 0.15, WINDOW)) / 20 + random.random_sample())
    step = strength * (np.cos(phase) + second * np.cos(2 * phase + person[2]))
    sway = strength * np.array([0.6, 0.4, 0.8, 0.6, 1.3, 0.5])[activity] * np.cos(phase / 2 + person[3])
    drift = np.cumsum(random.normal(0, 0.015, (2, WINDOW)), 1)
    body = np.stack([sway + drift[0], np.sin(lean) + 0.5 * np.roll(step, 2) + drift[1], np.cos(lean) + step])
    return body + 0.12 * random.standard_normal(body.shape)


@lru_cache(maxsize=1)
def movements() -> Split:
    """Windows of three axes of a sensor that is worn askew, and six activities; 3072 of 40 people, 800 of 15 others."""
    random = np.random.RandomState(96)

    def people(count: int, windows: int) -> tuple[Tensor, Tensor]:
        traits = np.stack([random.normal(1, 0.1, count), random.lognormal(0, 0.2, count)], 1)
        traits = np.concatenate([traits, random.normal(0, 0.7, (count, 2))], 1)
        turns = np.linalg.qr(np.eye(3) + 0.35 * random.standard_normal((count, 3, 3)))[0]
        turns = turns * np.sign(np.diagonal(turns, axis1=1, axis2=2))[:, None]
        who, what = random.randint(0, count, windows), random.randint(0, ACTIVITIES, windows)
        rows = [turns[i] @ _window(random, activity, traits[i]) for i, activity in zip(who, what, strict=True)]
        return torch.tensor(np.stack(rows), dtype=torch.float32), torch.from_numpy(what)

    return Split(*people(40, 3072), *people(15, 800))


class ConvLSTM(nn.Module):
    """Two convolutions with stride, an LSTM over what they find, and its last state, as in DeepConvLSTM."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        first = (nn.Conv1d(3, 24, 5, 2, 2, bias=False), nn.BatchNorm1d(24), nn.ReLU())
        self.find = nn.Sequential(*first, nn.Conv1d(24, dim, 5, 2, 2, bias=False), nn.BatchNorm1d(dim), nn.ReLU())
        self.lstm = nn.LSTM(dim, dim, batch_first=True)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(dim, ACTIVITIES))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(self.find(x).transpose(1, 2))[0][:, -1])
        return logits


class Jittered(Training):
    """Scales each axis of a window and adds noise."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, what = batch
        x = x * (1 + 0.1 * torch.randn(len(x), 3, 1, device=x.device)) + 0.05 * torch.randn_like(x)
        return self.loss(self(x), what)


def momentum(params: Params, lr: float) -> Optimizer:
    """SGD with momentum and weight decay."""
    return SGD(params, lr=lr, momentum=0.9, weight_decay=1e-3)


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="movements-conv-lstm-momentum-cosine",
        module=lambda lr: Jittered(ConvLSTM(), cross_entropy, lr, momentum, cosine),
        loader=batches(lambda: movements()[:2], 32),
        epochs=14,
        score=accuracy_on(lambda: movements()[2:]),
        naive_lr=0.1,
        default_lr=0.05,
        exponents=half_decades(-3.5, 0.5),
    ),
)
