"""Ground truth for suggested learning rates: real trainings over a grid of learning rates.

Each LR is trained with three seeds in a torch loop; :func:`check` shows that the Trainer reaches the same accuracy. The
grid has one LR per decade, and three where one end of the decade is good. Where seeds differ much, the good LRs are
trained with three more seeds, since otherwise the best LR of the grid is the one with the luckiest seeds. For the same
reason the accuracy is the mean of five evaluations during the last steps: with BatchNorm and a constant LR a single
evaluation can be wrong by tens of points at any LR.
"""

from __future__ import annotations

import json
import math
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.tasks import FORMS, TASKS, Form, Task
from benchmarks.trainers import quiet_trainer

PATH = Path(__file__).with_name("ground_truth.json")
SEEDS = (0, 1, 2)
MORE_SEEDS = (3, 4, 5)
NOISY = 1.0  # standard deviation between seeds, in points, above which more seeds are trained
NEAR_BEST = 5.0  # points below the best within which an LR is trained with more seeds
EVALUATIONS = (0, 5, 10, 15, 20)  # steps before the end
DECADES = tuple(range(-6, 3))  # exponents of the coarse grid
REFINE = 0.2  # a decade is refined if one end is this close to the best, as a share of best - worst


def train(task: Task, form: Form, lr: float, seed: int) -> float:
    """Trains once and returns the test accuracy in percent, the mean over the last steps."""
    module = task.module(form, lr, seed)
    configured = module.configure_optimizers()
    optimizer, scheduler = configured, None
    if isinstance(configured, dict):
        optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    accuracies = []
    module.train()
    for steps_left, (x, y) in zip(reversed(range(task.total_steps)), _batches(task), strict=True):
        loss = cross_entropy(module.net(x), y)
        if not math.isfinite(loss.item()):
            return accuracy(module, task)  # NaN weights do not recover
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if steps_left in EVALUATIONS:
            accuracies.append(accuracy(module, task))
    return float(np.mean(accuracies))


def _batches(task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    """All batches of a training, as a loader with ``shuffle=True, drop_last=True`` gives them."""
    split, size = task.split(), task.batch_size
    for _ in range(task.epochs):
        order = torch.randperm(len(split.x_train))
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size]
            yield split.x_train[rows], split.y_train[rows]


def accuracy(module: pl.LightningModule, task: Task) -> float:
    """Test accuracy in percent."""
    split = task.split()
    module.eval()
    with torch.no_grad():
        hits = module(split.x_test).argmax(1) == split.y_test
    module.train()
    return 100.0 * hits.float().mean().item()


def train_with_trainer(task: Task, form: Form, lr: float, seed: int) -> float:
    """The same training by Lightning's Trainer."""
    module = task.module(form, lr, seed)
    trainer = quiet_trainer(max_epochs=task.epochs)
    trainer.fit(module, task.loader())
    return float(trainer.test(module, task.test_loader(), verbose=False)[0]["accuracy"])


def check(task: Task, form: Form, lr: float, seeds: tuple[int, ...] = (0, 1, 2, 3, 4)) -> str:
    """A sentence with the accuracies of the torch loop and of the Trainer and the error of their difference.

    Meant for the one-cycle form, whose last steps are so small that the time of the evaluation does not matter.
    """
    by_loop = np.array([train(task, form, lr, seed) for seed in seeds])
    by_trainer = np.array([train_with_trainer(task, form, lr, seed) for seed in seeds])
    error = math.sqrt((by_loop.var(ddof=1) + by_trainer.var(ddof=1)) / len(seeds))
    return (
        f"On {task.name} at LR {lr:g} that loop reaches {by_loop.mean():.2f}% and Lightning's Trainer "
        f"{by_trainer.mean():.2f}% (means of {len(seeds)} seeds, standard error of the difference {error:.2f})."
    )


def measure(task: Task, form: Form) -> dict[str, Any]:
    """Trains over the grid and returns LRs, accuracies (LR x seed), steps, data fingerprint and time."""
    start = time.perf_counter()
    found: dict[float, list[float]] = {}

    def visit(exponent: float, seeds: tuple[int, ...] = SEEDS) -> None:
        found.setdefault(exponent, []).extend(train(task, form, 10.0**exponent, seed) for seed in seeds)

    for decade in DECADES:
        visit(float(decade))
    means = {exponent: float(np.mean(values)) for exponent, values in found.items()}
    good = max(means.values()) - REFINE * (max(means.values()) - min(means.values()))
    for low, high in pairwise(DECADES):
        if max(means[low], means[high]) >= good:
            visit(low + 1 / 3)
            visit(low + 2 / 3)
    exponents = sorted(found)
    if _noise([found[exponent] for exponent in exponents]) > NOISY:
        best = max(float(np.mean(values)) for values in found.values())
        for exponent in exponents:
            if np.mean(found[exponent]) >= best - NEAR_BEST:
                visit(exponent, MORE_SEEDS)
    return {
        "log10_lr": [round(exponent, 4) for exponent in exponents],
        "accuracy": [[round(value, 2) for value in found[exponent]] for exponent in exponents],
        "steps": task.total_steps,
        "data": task.split().fingerprint,
        "seconds": round(time.perf_counter() - start, 1),
    }


def _noise(runs: list[list[float]]) -> float:
    """Standard deviation of the accuracy between seeds, pooled over the LRs near the best."""
    best = max(float(np.mean(values)) for values in runs)
    variances = [np.var(values, ddof=1) for values in runs if np.mean(values) >= best - 3.0]
    return float(np.sqrt(np.mean(variances)))


def recompute() -> None:
    """Trains everything again and writes the file (about half an hour on one core)."""
    truth: dict[str, Any] = {
        "made_with": {"python": platform.python_version(), "torch": torch.__version__, "seeds": [*SEEDS, *MORE_SEEDS]},
        "tasks": {},
    }
    for task in TASKS:
        truth["tasks"][task.name] = {form: measure(task, form) for form in FORMS}
        print(f"{task.name}: {[truth['tasks'][task.name][form]['seconds'] for form in FORMS]} s", flush=True)
        _write(truth)


def stale_tasks() -> list[str]:
    """Tasks whose ground truth was measured on other data or steps than those of this installation."""
    recorded = json.loads(PATH.read_text())["tasks"]
    now = {task.name: (task.total_steps, task.split().fingerprint) for task in TASKS}
    return [
        name
        for name, what in now.items()
        if any((recorded[name][form]["steps"], recorded[name][form]["data"]) != what for form in FORMS)
    ]


def _write(truth: dict[str, Any]) -> None:
    """Writes one line per LR, so that a diff is readable."""
    text = json.dumps(truth, indent=1)
    PATH.write_text(_join_inner_lists(text) + "\n")


def _join_inner_lists(text: str) -> str:
    return re.sub(r"\[[^\[\]]*\]", lambda match: re.sub(r"\s+", " ", match.group()), text)


@dataclass(frozen=True)
class Truth:
    """Mean accuracy (percent) over log10 of the learning rate, for one task and form."""

    log10_lr: np.ndarray
    mean: np.ndarray
    seed_sd: float

    @classmethod
    def load(cls, task: Task, form: Form) -> Truth:
        """Reads one task's grid from the committed file."""
        entry = json.loads(PATH.read_text())["tasks"][task.name][form]
        runs = entry["accuracy"]
        return cls(np.array(entry["log10_lr"]), np.array([np.mean(values) for values in runs]), _noise(runs))

    @property
    def best_lr(self) -> float:
        return float(10 ** self.log10_lr[self.mean.argmax()])

    def accuracy_at(self, lr: float) -> float:
        """Interpolated in log10(lr); outside the grid its last value, which favours extreme suggestions."""
        return float(np.interp(math.log10(lr), self.log10_lr, self.mean))

    def regret(self, lr: float) -> float:
        """Accuracy points lost against the best LR of the grid; never negative."""
        return float(self.mean.max()) - self.accuracy_at(lr)

    def flat_top(self, points: float = 1.0) -> tuple[float, float]:
        """The lowest and highest LR of the grid within ``points`` of the best accuracy."""
        good = self.log10_lr[self.mean >= self.mean.max() - points]
        return float(10 ** good.min()), float(10 ** good.max())
