"""Fresh tasks with tables and words: few rows, quantiles, and a text CNN."""

from __future__ import annotations

from collections.abc import Iterable

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import SGD, Adam, Adamax, Optimizer
from torch.optim.lr_scheduler import ExponentialLR

from benchmarks.lr_tasks.fresh import data
from benchmarks.lr_tasks.held_out.common import NetModule, accuracy_on, batches
from benchmarks.lr_tasks.sealed.common import explained_on, half_decades, thirds
from benchmarks.lr_tasks.shaping import texts as shaping_texts
from benchmarks.lr_tasks.shaping.module import Training
from benchmarks.lr_tasks.task import LRTask


def relu_mlp(n_in: int, hidden: int, n_out: int) -> nn.Module:
    """Two hidden layers with ReLU."""
    first = (nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
    return nn.Sequential(*first, nn.Linear(hidden, n_out))


def strong_decay(params: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """SGD with momentum and strong weight decay, for few rows."""
    return SGD(params, lr=lr, momentum=0.9, weight_decay=1e-2)


def adamax(params: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """Adamax with its defaults."""
    return Adamax(params, lr=lr)


#: Which are predicted.
QUANTILES = (0.1, 0.5, 0.9)


def pinball(prediction: Tensor, target: Tensor) -> Tensor:
    """The loss whose minimum is a quantile, its mean over the quantiles."""
    levels, error = torch.tensor(QUANTILES), target - prediction
    return torch.maximum(levels * error, (levels - 1) * error).mean()


@torch.no_grad()
def quantile_score(module: pl.LightningModule) -> float:
    """What of the loss of constant quantiles is saved, in percent, not below 0."""
    _, y_train, x, y = data.uneven_noise()
    constant = torch.quantile(y_train, torch.tensor(QUANTILES))
    return max(0.0, 100.0 * (1.0 - float(pinball(module(x), y) / pinball(constant, y))))


class TextCNN(nn.Module):
    """Embedded words, convolutions over two to four of them, and the maximum over the text."""

    def __init__(self, dim: int = 32, filters: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(shaping_texts.WORDS, dim, padding_idx=0)
        self.convolutions = nn.ModuleList([nn.Conv1d(dim, filters, width) for width in (2, 3, 4)])
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(3 * filters, shaping_texts.CLASSES))

    def forward(self, numbers: Tensor) -> Tensor:
        embedded = self.embed(numbers).transpose(1, 2)
        found = [convolution(embedded).relu().amax(2) for convolution in self.convolutions]
        logits: Tensor = self.head(torch.cat(found, 1))
        return logits


class TextClassifier(NetModule):
    """Cross entropy, and Adam whose rate falls by a factor after each epoch."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        numbers, labels = batch
        return cross_entropy(self.net(numbers), labels)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[ExponentialLR]]:
        optimizer = Adam(self.parameters(), lr=self.lr)
        return [optimizer], [ExponentialLR(optimizer, gamma=0.8)]


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="mileage-mlp-momentum-decay-steps",
        module=lambda lr: Training(relu_mlp(7, 48, 1), mse_loss, lr, strong_decay, thirds),
        loader=batches(lambda: data.mileage()[:2], 14),
        epochs=60,
        score=explained_on(data.mileage),
        naive_lr=0.1,
        default_lr=0.01,
        exponents=half_decades(-5, 0),
    ),
    LRTask(
        name="quantiles-mlp-adamax-constant",
        module=lambda lr: Training(relu_mlp(6, 48, len(QUANTILES)), pinball, lr, adamax, None),
        loader=batches(lambda: data.uneven_noise()[:2], 32),
        epochs=20,
        score=quantile_score,
        naive_lr=1e-3,
        default_lr=2e-3,
        exponents=half_decades(-4, 0.5),
    ),
    LRTask(
        name="text-cnn-adam-exponential",
        module=lambda lr: TextClassifier(TextCNN(), lr),
        loader=batches(lambda: shaping_texts.news()[:2], 32),
        epochs=8,
        score=accuracy_on(lambda: shaping_texts.news()[2:]),
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -0.5),
    ),
)
