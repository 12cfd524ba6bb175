"""A training with a score: what a learning rate is worth is the score of a real training at it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from benchmarks.trainers import quiet_trainer

#: The score is the mean over these many evaluations, one every five steps, up to the last step.
EVALUATIONS = 5


@dataclass(frozen=True)
class LRTask:
    """One training: module, data, schedule, length, and how its result is scored.

    Attributes:
        name: A short name, which no other task has.
        module: Returns a new module at a peak learning rate; it keeps the rate in ``lr`` and draws its initial weights
            from torch's global generator.
        loader: Returns the training loader.
        epochs: Length of the training.
        score: Returns the score of a trained module on data that it was not trained on, in points: accuracy in
            percent, or 100 x (explained variance, intersection over union, ...). Higher is better.
        naive_lr: What is typed without looking: 0.1 for SGD, 1e-3 for Adam and its kind.
        default_lr: What the author of such a module would give its constructor as the default: the rate of the paper or
            of the usual recipe for this kind of model.
        exponents: The grid of the ground truth, log10 of the learning rates.
        callbacks: Returns callbacks of the training, such as SAM.
        options: Further arguments of the Trainer.

    """

    name: str
    module: Callable[[float], pl.LightningModule]
    loader: Callable[[], DataLoader[Any]]
    epochs: int
    score: Callable[[pl.LightningModule], float]
    naive_lr: float
    default_lr: float
    exponents: tuple[float, ...]
    callbacks: Callable[[], list[pl.Callback]] = list
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the training."""
        return self.epochs * math.ceil(len(self.loader()) / self.options.get("accumulate_grad_batches", 1))

    def trainer(self, *callbacks: pl.Callback) -> pl.Trainer:
        """A Trainer for this training, with further callbacks in front."""
        return quiet_trainer(max_epochs=self.epochs, callbacks=[*callbacks, *self.callbacks()], **self.options)


class _Scores(pl.Callback):
    """Scores the module at the last steps, and ends a training whose loss is not finite."""

    def __init__(self, task: LRTask) -> None:
        self.task = task
        self.steps_left = task.total_steps
        self.scores: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        left = self.task.total_steps - trainer.global_step
        if left == self.steps_left:
            return  # a batch that is accumulated
        self.steps_left = left
        if not math.isfinite(float(loss)):
            trainer.should_stop = True
            self.scores = [score(self.task, pl_module)]
        elif left % 5 == 0 and left < 5 * EVALUATIONS:
            self.scores.append(score(self.task, pl_module))


def score(task: LRTask, pl_module: pl.LightningModule) -> float:
    """The score now; the module is in training mode before and after."""
    pl_module.eval()
    value = task.score(pl_module)
    pl_module.train()
    return value if math.isfinite(value) else 0.0


def train(task: LRTask, lr: float, seed: int) -> float:
    """Trains once with Lightning's Trainer, and returns the mean score over the last steps."""
    pl.seed_everything(seed, verbose=False)
    module, scores = task.module(lr), _Scores(task)
    task.trainer(scores).fit(module, task.loader())
    return float(np.mean(scores.scores))
