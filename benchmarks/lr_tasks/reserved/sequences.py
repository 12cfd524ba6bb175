"""Reserved tasks with sequences: kinds of characters, dates, and control charts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LinearLR

from benchmarks.lr_tasks.held_out.common import NetModule, accuracy_on, batches, each_step, percent_equal
from benchmarks.lr_tasks.reserved import texts
from benchmarks.lr_tasks.sealed.common import half_decades, one_cycle
from benchmarks.lr_tasks.shaping.module import Training
from benchmarks.lr_tasks.task import LRTask


class Tagger(nn.Module):
    """A bidirectional LSTM that classifies each character."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(texts.CHARACTERS, 16)
        self.lstm = nn.LSTM(16, 24, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(48, len(texts.KINDS)))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(self.embed(x))[0])
        return logits


class Tagging(NetModule):
    """Cross entropy of all characters, Adam, a rate that falls linearly to a tenth."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, kinds = batch
        return cross_entropy(self.net(x).flatten(0, 1), kinds.flatten())

    def configure_optimizers(self) -> Any:
        optimizer = Adam(self.parameters(), lr=self.lr)
        return each_step(optimizer, LinearLR(optimizer, 1.0, 0.1, self.total_steps))


class DateReader(nn.Module):
    """Reads a date with a GRU, and writes the answer with a GRU that attends to what was read."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(texts.DATE_LETTERS), dim)
        self.read = nn.GRU(dim, dim, batch_first=True)
        self.write = nn.GRU(dim, dim, batch_first=True)
        self.head = nn.Sequential(nn.Linear(2 * dim, 48), nn.ReLU(), nn.Linear(48, len(texts.DATE_LETTERS)))

    def forward(self, source: Tensor, answer: Tensor) -> Tensor:
        read, last = self.read(self.embed(source))
        before = pad(answer[:, :-1], (1, 0))  # each letter is written after the right ones before it
        written, _ = self.write(self.embed(before), last)
        weights = (written @ read.transpose(1, 2) / read.shape[2] ** 0.5).softmax(2)
        logits: Tensor = self.head(torch.cat([written, weights @ read], 2))
        return logits


class Dates(NetModule):
    """Cross entropy of all letters of the answer, Adam at a constant rate."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        source, answer = batch
        return cross_entropy(self.net(source, answer).flatten(0, 1), answer.flatten())

    def configure_optimizers(self) -> Optimizer:
        return Adam(self.parameters(), lr=self.lr)


@torch.no_grad()
def date_accuracy(module: pl.LightningModule) -> float:
    """Accuracy of the letters of the answers to test dates."""
    source, answer = texts.dates()[1]
    return percent_equal(module.net(source, answer), answer)  # type: ignore[operator]


class Dilated(nn.Module):
    """Two dilated convolutions beside a shortcut."""

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv1d(dim, dim, 3, padding=dilation, dilation=dilation, bias=False), nn.BatchNorm1d(dim)]
            layers += [nn.ReLU()]
        self.body = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def temporal_cnn() -> nn.Module:
    """Residual blocks whose dilation grows, and the mean over the time."""
    blocks = (nn.Conv1d(1, 16, 3, padding=1), *(Dilated(16, dilation) for dilation in (1, 2, 4)))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 6))


def momentum(params: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """SGD with momentum and weight decay."""
    return SGD(params, lr=lr, momentum=0.9, weight_decay=1e-3)


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="source-tags-bilstm-adam-linear",
        module=lambda lr: Tagging(Tagger(), lr),
        loader=batches(lambda: texts.tagged_source()[:2], 32),
        epochs=3,
        score=accuracy_on(lambda: texts.tagged_source()[2:]),
        naive_lr=1e-3,
        default_lr=5e-3,
        exponents=half_decades(-4, 0),
    ),
    LRTask(
        name="dates-attention-gru-adam-clipped",
        module=lambda lr: Dates(DateReader(), lr),
        loader=batches(lambda: texts.dates()[0], 32),
        epochs=4,
        score=date_accuracy,
        naive_lr=1e-3,
        default_lr=2e-3,
        exponents=half_decades(-4, 0),
        options={"gradient_clip_val": 1.0},
    ),
    LRTask(
        name="charts-temporal-cnn-momentum-onecycle",
        module=lambda lr: Training(temporal_cnn(), cross_entropy, lr, momentum, one_cycle),
        loader=batches(lambda: texts.charts()[:2], 32),
        epochs=8,
        score=accuracy_on(lambda: texts.charts()[2:]),
        naive_lr=0.1,
        default_lr=0.05,
        exponents=half_decades(-3, 1),
    ),
)
