"""A training with several subjects, short enough to train all combinations of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.datasets import Split

Settings = dict[str, Any]

#: The seeds that a strategy sees, and those that measure what it has chosen.
SEARCH_SEEDS, TRUTH_SEEDS = (0, 1), (100, 101, 102)


class Parts(NamedTuple):
    """A data set in three parts; strategies see the scores of the second, regret is measured on the third."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class SweepTask:
    """A data set, a network and the values of the subjects.

    Attributes:
        name: The name.
        optimizer: SGD with momentum 0.9, or AdamW.
        epochs: Length of a training.
        space: The subjects in an order that a user might choose, and their values. Has ``lr`` and ``batch_size``.
        start: Values that a user might start from.
        data: Loads the data.
        net: Builds the network.

    """

    name: str
    optimizer: Literal["SGD", "AdamW"]
    epochs: int
    space: Mapping[str, Sequence[Any]]
    start: Settings
    data: Callable[[], Parts]
    net: Callable[[Settings], nn.Module]


class Training(NamedTuple):
    """Accuracies in percent: on the validation part after each epoch, and on the test part at the end."""

    validation: list[float]
    test: float


def build_optimizer(task: SweepTask, net: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimizer of the task."""
    decay = settings.get("weight_decay", 0.0)
    if task.optimizer == "SGD":
        return torch.optim.SGD(net.parameters(), settings["lr"], momentum=0.9, weight_decay=decay, foreach=False)
    return torch.optim.AdamW(net.parameters(), settings["lr"], weight_decay=decay, fused=True)


def train(task: SweepTask, settings: Settings, seed: int, epochs: int | None = None) -> Training:
    """Trains once, at a constant learning rate."""
    torch.manual_seed(seed)
    parts = task.data()
    x, y = parts.train
    net = task.net(settings)
    optimizer = build_optimizer(task, net, settings)
    curve = []
    for _ in range(epochs or task.epochs):
        net.train()
        for rows in torch.randperm(len(x)).split(settings["batch_size"]):
            loss = cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        curve.append(accuracy(net, parts.validation))
    return Training(curve, accuracy(net, parts.test))


def accuracy(net: nn.Module, part: tuple[Tensor, Tensor]) -> float:
    """Accuracy in percent."""
    net.eval()
    with torch.no_grad():
        return round(100 * float((net(part[0]).argmax(1) == part[1]).float().mean()), 3)


def three_parts(split: Split, n_train: int, n_validation: int) -> Parts:
    """Cuts all rows of a split in three."""
    x, y = torch.cat([split.x_train, split.x_test]), torch.cat([split.y_train, split.y_test])
    end = n_train + n_validation
    return Parts((x[:n_train], y[:n_train]), (x[n_train:end], y[n_train:end]), (x[end:], y[end:]))
