"""The gradient noise scale that the callback finds, against exact values and the measured critical batch size.

Exact values come from the gradient of each sample of the training set, at weights along the same training. The critical
batch size is that of the fit steps(B) = minimum (1 + critical / B) to the optimizer steps that reach a loss, with the
best learning rate of a grid at each batch size.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from benchmarks import datasets
from benchmarks.interleaved import InterleavedRun, median_ratio, run_rounds
from benchmarks.tasks import cnn, mlp
from benchmarks.trainers import quiet_trainer
from lightning_hp import GradientNoiseScale

MICRO_BATCH, ACCUMULATE, DECAY = 8, 8, 0.98
SEEDS = tuple(range(4))
EXACT_EVERY, READ_EVERY = 4, 25
REHEARSED_EPOCHS = (0, 1, 3)
BATCHES = (8, 16, 32, 64, 128, 256, 512, 1024)
TARGET_SEEDS = (0, 1)


def _small_cnn() -> nn.Module:
    """Without batch normalisation, which gives no gradient of one sample."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A training on real data, the loss that counts as reached, and the rates to choose from."""

    name: str
    split: Callable[[], datasets.Split]
    net: Callable[[], nn.Module]
    optimizer: Callable[..., Optimizer]
    lr: float
    epochs: int
    target: float
    rates: tuple[float, ...]


def half_of_mnist() -> datasets.Split:
    """2000 images for training: the gradient of each sample is computed often."""
    split = datasets.mnist()
    return split._replace(x_train=split.x_train[:2000], y_train=split.y_train[:2000])


_SGD_RATES = tuple(0.0125 * 2**i for i in range(9))
TASKS = (
    Task("digits, logistic regression", datasets.digits, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
         SGD, 0.1, 15, 0.25, _SGD_RATES),
    Task("MNIST, MLP 196-64-10", half_of_mnist,
         lambda: nn.Sequential(nn.Flatten(), nn.Linear(196, 64), nn.ReLU(), nn.Linear(64, 10)),
         SGD, 0.1, 10, 0.2, _SGD_RATES),
    Task("digits, CNN", datasets.digits, _small_cnn, SGD, 0.1, 15, 0.2, _SGD_RATES),
)  # fmt: skip


class Module(pl.LightningModule):
    """A classifier with a constant rate."""

    def __init__(self, task: Task, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = task.net()
        self.task = task

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Optimizer:
        return self.task.optimizer(self.parameters(), lr=self.task.lr)


def exact(net: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """|G|^2 and tr(C) over a whole training set, from the gradient of each sample."""
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(weights: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(net, weights, (one[None],)), label[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    squares = 0.0
    for rows in torch.arange(len(x)).split(500):
        for name, gradients in each(parameters, x[rows], y[rows]).items():
            sums[name] += gradients.sum(0)
            squares += float(gradients.square().sum())
    square = sum(float((total / len(x)).square().sum()) for total in sums.values())
    return square, squares / len(x) - square


class Exact(pl.Callback):
    """Computes the exact values before some steps of a training."""

    changes_gradients = False

    def __init__(self, task: Task, every: int) -> None:
        self.task, self.every = task, every
        self.values: dict[int, tuple[float, float]] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step % self.every or step in self.values:
            return
        split = self.task.split()
        self.values[step] = exact(pl_module.net, split.x_train, split.y_train)


@dataclass(frozen=True)
class Row:
    """One estimate, and the exact values that it estimates."""

    task: str
    source: str
    seed: int
    step: int
    estimate: float | None
    low: float
    high: float
    exact: float  # of the distribution that the training set is a sample of
    exact_of_set: float  # of the training set

    @property
    def covers(self) -> bool:
        return self.low <= self.exact <= self.high


def _both(square: float, trace: float, samples: int) -> tuple[float, float]:
    """The noise scale of the distribution behind N samples, unbiased in both terms, and that of the samples."""
    of_distribution = square - trace / (samples - 1)
    scale = trace * samples / (samples - 1) / of_distribution if of_distribution > 0 else math.inf
    return scale, trace / square


def along(task: Task, seed: int) -> list[Row]:
    """Estimates of a training with accumulation."""
    module, split = Module(task, seed), task.split()
    loader = DataLoader(
        TensorDataset(split.x_train, split.y_train), batch_size=MICRO_BATCH, shuffle=True, drop_last=True
    )
    noise = GradientNoiseScale(decay=DECAY)
    watch = Exact(task, EXACT_EVERY)
    quiet_trainer(max_epochs=task.epochs, accumulate_grad_batches=ACCUMULATE, callbacks=[noise, watch]).fit(
        module, loader
    )
    result = noise.result
    assert result is not None
    at = sorted(watch.values)
    steps = np.arange(at[0], at[-1] + 1)
    between = [np.interp(steps, at, [watch.values[step][i] for step in at]) for i in (0, 1)]
    rows, square, trace = [], 0.0, 0.0
    for step, gradient, noise_trace in zip(steps.tolist(), *(one.tolist() for one in between), strict=True):
        square, trace = DECAY * square + gradient, DECAY * trace + noise_trace
        if (step + 1) % READ_EVERY == 0 and step + 1 in result.steps:
            index = result.steps.index(step + 1)
            value = result.noise_scales[index]
            rows.append(
                Row(task.name, "accumulation", seed, step + 1, None if math.isnan(value) else value,
                    result.lows[index], result.highs[index], *_both(square, trace, len(split.x_train)))
            )  # fmt: skip
    return rows


def rehearsed(task: Task, seed: int) -> list[Row]:
    """Estimates of rehearsals at the beginning of some epochs."""
    module, split = Module(task, seed), task.split()
    loader = DataLoader(TensorDataset(split.x_train, split.y_train), batch_size=32, shuffle=True, drop_last=True)
    noise = GradientNoiseScale(milestones=REHEARSED_EPOCHS)
    watch = Exact(task, len(split.x_train) // 32)  # at the start of each epoch
    quiet_trainer(max_epochs=max(REHEARSED_EPOCHS) + 1, callbacks=[noise, watch]).fit(module, loader)
    result = noise.result
    assert result is not None
    rows = zip(result.steps, result.noise_scales, result.lows, result.highs, strict=True)
    return [
        Row(task.name, "rehearsal", seed, step, None if math.isnan(value) else value, low, high,
            *_both(*watch.values[step], len(split.x_train)))
        for step, value, low, high in rows
        if step in watch.values
    ]  # fmt: skip


@dataclass(frozen=True)
class Critical:
    """Optimizer steps to a loss, by batch size, with the best rate; and the fit to them."""

    task: str
    steps: dict[int, float]
    rates: dict[int, float]
    critical: float
    rms: float


def steps_to_target(task: Task, batch: int, lr: float, seed: int, limit: int) -> float:
    """Optimizer steps until the mean loss of 1000 training samples is below the target; infinite beyond a limit."""
    torch.manual_seed(seed)
    net, split = task.net(), task.split()
    x, y = split.x_train, split.y_train
    optimizer = task.optimizer(net.parameters(), lr=lr)
    order, step = torch.empty(0, dtype=torch.long), 0
    while step < limit:
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(len(x))])
        rows, order = order[:batch], order[batch:]
        optimizer.zero_grad()
        loss = cross_entropy(net(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        step += 1
        if step % max(1, min(step, limit) // 40) == 0:
            with torch.no_grad():
                reached = float(cross_entropy(net(x[:1000]), y[:1000]))
            if reached < task.target:
                return step
            if not math.isfinite(reached):
                return math.inf
    return math.inf


def critical_batch_size(task: Task) -> Critical:
    """Fits the critical batch size to the steps of the best rates."""
    samples = len(task.split().x_train)
    steps: dict[int, float] = {}
    rates: dict[int, float] = {}
    for batch in BATCHES:
        if batch > samples:
            continue
        best = math.inf
        for lr in task.rates:
            runs: list[float] = []
            for seed in TARGET_SEEDS:
                limit = int(1.5 * best) if math.isfinite(best) else max(300, 12_000 // batch)
                runs.append(steps_to_target(task, batch, lr, seed, limit))
                if math.isinf(runs[-1]):
                    break
            mean = statistics.mean(runs)
            if mean < best:
                best, rates[batch] = mean, lr
        if math.isfinite(best):
            steps[batch] = best
    critical, rms = fit_critical(steps)
    return Critical(task.name, steps, rates, critical, rms)


def fit_critical(steps: dict[int, float]) -> tuple[float, float]:
    """The critical batch size with the least squared error of the logarithm, and the root mean square of that."""
    sizes, log_steps = np.array(list(steps)), np.log(list(steps.values()))
    grid = np.geomspace(1, 1e5, 2000)
    shapes = np.log1p(grid[:, None] / sizes)
    residuals = log_steps - shapes - (log_steps - shapes).mean(1, keepdims=True)
    errors = (residuals**2).mean(1)
    best = int(errors.argmin())
    return float(grid[best]), float(math.sqrt(errors[best]))


# ------------------------------------------------------------------------------------------------------ time of a step


class Ticking(pl.LightningModule):
    """Calls a function when each of its forward passes starts."""

    def __init__(self, net: nn.Module, tick: Callable[[], None]) -> None:
        super().__init__()
        self.net, self.tick = net, tick

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.tick()
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=1e-4, momentum=0.9)


@dataclass(frozen=True)
class Job:
    """A model, its micro-batches, and how many make a turn: a multiple of four, which are accumulated."""

    name: str
    net: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch_size: int
    ticks_a_turn: int
    turns: int
    rounds: int


JOBS = (
    Job("MLP 64-128-128-10, micro-batch 64", lambda: mlp(64, 128, 10), (1, 8, 8), 64, 13, 24, 5),
    Job("CNN with BatchNorm 14x14, micro-batch 64", lambda: cnn(8, 10), (1, 14, 14), 64, 13, 12, 5),
    Job("ResNet-18 32x32, micro-batch 32", lambda: resnet18(num_classes=10), (3, 32, 32), 32, 5, 6, 4),
)
DRIVERS: dict[str, Callable[[], list[Any]]] = {
    "Trainer.fit": list,
    "every step measured": lambda: [GradientNoiseScale()],
    "no step measured": lambda: [GradientNoiseScale(every=10**9)],
}


@dataclass(frozen=True)
class Cost:
    """The time of a micro-batch, relative to the same fit without the callback."""

    job: str
    driver: str
    ms: float
    ratio: float
    low: float
    high: float


def cost(job: Job) -> list[Cost]:
    """Runs all drivers interleaved."""
    turns, _ = run_rounds({name: partial(_drive, job, name) for name in DRIVERS}, job.ticks_a_turn, job.rounds)
    return [
        Cost(job.name, name, 1e3 * statistics.median(turns[name]), *median_ratio(turns[name], turns["Trainer.fit"]))
        for name in DRIVERS
    ]


def _drive(job: Job, name: str, run: InterleavedRun) -> None:
    torch.manual_seed(0)
    batches = job.ticks_a_turn * job.turns
    x, y = torch.randn(job.batch_size, *job.shape), torch.randint(10, (job.batch_size,))
    # The first step is none that "no step measured" measures: it is over before the first turn that counts.
    loader = DataLoader(TensorDataset(x[None], y[None]), batch_size=None, sampler=[0] * batches)
    quiet_trainer(max_epochs=1, accumulate_grad_batches=4, callbacks=DRIVERS[name]()).fit(
        Ticking(job.net(), partial(run.tick, name)), loader
    )


# ------------------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True)
class Results:
    """All that the page is written from."""

    rows: list[Row]
    critical: list[Critical]
    costs: list[Cost]


def run_all(tasks: Sequence[Task] = TASKS, seeds: Iterable[int] = SEEDS) -> Results:
    """Runs everything, one after the other."""
    rows: list[Row] = []
    critical = []
    for task in tasks:
        for seed in seeds:
            rows += along(task, seed) + rehearsed(task, seed)
        print(f"noise scale: {task.name}, estimates done", flush=True)
        critical.append(critical_batch_size(task))
        print(f"noise scale: {task.name}, critical batch size {critical[-1].critical:.3g}", flush=True)
    costs = [one for job in JOBS for one in cost(job)]
    return Results(rows, critical, costs)


def save(results: Results, path: Path) -> None:
    """Writes all results as JSON."""
    path.write_text(json.dumps(asdict(results), indent=0) + "\n")


def load(path: Path) -> Results:
    """Reads what :func:`save` wrote."""
    values = json.loads(path.read_text())
    critical = [
        Critical(**{**one, **{key: {int(k): v for k, v in one[key].items()} for key in ("steps", "rates")}})
        for one in values["critical"]
    ]
    return Results([Row(**row) for row in values["rows"]], critical, [Cost(**row) for row in values["costs"]])
