"""Accuracy at equal epochs when the batch grows, for every rule that scales the learning rate with it.

For each task and optimizer the best LR at batch 16 is picked from a small grid. Then the batch grows 2 to 16 times and
the LR follows a rule, or is picked anew at the larger batch: the yardstick. LRs are picked with other seeds than those
that are reported, else the picked ones would be flattered. All train on exactly as many samples, with a cosine decay
to zero, so that what an accuracy ends with is not the noise of the last steps.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer

from benchmarks import data
from benchmarks.tasks import cnn, letters_mlp, mlp
from lightning_hp import functional as hpf

BASE_BATCH = 16
TIMES = (2, 4, 8, 16)
RULES = ("left alone", "sqrt", "sqrt, warm-up", "linear", "linear, warm-up", "retuned")
GRIDS = {
    "momentum": tuple(0.005 * 2**i for i in range(6)),
    "adamw": tuple(0.0005 * 2**i for i in range(6)),
}
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "momentum": partial(SGD, momentum=0.9, weight_decay=5e-4, fused=True),
    "adamw": partial(AdamW, fused=True),
}
NAMES = {"momentum": "SGD with momentum 0.9", "adamw": "AdamW"}
PICKING_SEEDS = (100, 101)
SEEDS = (0, 1, 2)
PROCESSES = 2


@dataclass(frozen=True)
class Job:
    """What is learned, by which model, for how long."""

    name: str
    split: Callable[[], data.Split]
    net: Callable[[], nn.Module]
    epochs: int

    def num_steps(self, batch_size: int) -> int:
        return self.epochs * len(self.split().x_train) // batch_size


JOBS = (
    Job("digits-mlp", data.digits, partial(mlp, 64, 128, 10), 16),
    Job("digits-cnn", data.digits, partial(cnn, 16, 10), 10),
    Job("mnist-mlp", data.mnist, partial(mlp, 196, 256, 10, dropout=0.2), 8),
    Job("cancer-mlp", data.cancer, partial(mlp, 30, 64, 2), 32),
    Job("text-mlp", data.text, letters_mlp, 2),
)


@dataclass(frozen=True)
class Run:
    """One training."""

    job: str
    optimizer: str
    rule: str
    times: int
    seed: int
    lr: float
    steps: int
    accuracy: float


@cache
def train(job: Job, optimizer_name: str, batch_size: int, lr: float, seed: int, warm_from: float | None) -> float:
    """Trains once and returns the test accuracy in percent; ``warm_from``: the LR from which a warm-up rises."""
    torch.manual_seed(seed)
    net, split, num_steps = job.net(), job.split(), job.num_steps(batch_size)
    optimizer = OPTIMIZERS[optimizer_name](net.parameters(), lr=lr)
    # The advised length, also where none would be advised: from which k on it pays is the question.
    warmup = 0 if warm_from is None else min(num_steps // 10, 5 * num_steps // job.epochs)
    for step, rows in enumerate(_batches(len(split.x_train), batch_size, job.epochs)):
        decay = 0.5 * (1 + math.cos(math.pi * step / num_steps))
        for group in optimizer.param_groups:
            group["lr"] = decay * hpf.warmup_lr(step, lr if warm_from is None else warm_from, lr, warmup)
        loss = cross_entropy(net(split.x_train[rows]), split.y_train[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 and not math.isfinite(loss.item()):
            break  # it cannot recover
    net.eval()
    with torch.no_grad():
        return 100.0 * (net(split.x_test).argmax(1) == split.y_test).float().mean().item()


def _batches(num_samples: int, batch_size: int, epochs: int) -> Iterator[Tensor]:
    """Full batches of one shuffled epoch after the other; one may reach over the border, so that none is cut off."""
    order = torch.cat([torch.randperm(num_samples) for _ in range(epochs)])
    for start in range(0, len(order) - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def pick_lr(job: Job, optimizer: str, batch_size: int, lrs: Sequence[float]) -> float:
    """The best LR of a grid in steps of two, by accuracy smoothed over neighbours: the middle of a flat top."""
    means = [statistics.mean(train(job, optimizer, batch_size, lr, seed, None) for seed in PICKING_SEEDS) for lr in lrs]
    padded = [means[0], *means, means[-1]]
    smooth = [
        (left + 2 * middle + right) / 4 for left, middle, right in zip(padded, padded[1:], padded[2:], strict=False)
    ]
    return lrs[smooth.index(max(smooth))]


def measure(job: Job, optimizer: str) -> list[Run]:
    """All rules at all batch sizes, for one task and optimizer."""
    torch.set_num_threads(1)
    base_lr = pick_lr(job, optimizer, BASE_BATCH, GRIDS[optimizer])
    runs = _report(job, optimizer, "base", 1, base_lr, None)
    for times in TIMES:
        size = times * BASE_BATCH
        for rule in RULES[:-1]:
            kind, _, warm = rule.partition(", ")
            lr = base_lr if kind == "left alone" else hpf.scale_lr(base_lr, size, BASE_BATCH, kind)
            runs += _report(job, optimizer, rule, times, lr, base_lr if warm else None)
        # From the base LR to twice what the linear rule says.
        grid = [base_lr * 2**i for i in range(int(math.log2(times)) + 2)]
        runs += _report(job, optimizer, "retuned", times, pick_lr(job, optimizer, size, grid), None)
    print(f"lr scaling: {job.name} with {optimizer} done", flush=True)
    return runs


def _report(job: Job, optimizer: str, rule: str, times: int, lr: float, warm_from: float | None) -> list[Run]:
    size = times * BASE_BATCH
    return [
        Run(
            job.name,
            optimizer,
            rule,
            times,
            seed,
            lr,
            job.num_steps(size),
            round(train(job, optimizer, size, lr, seed, warm_from), 2),
        )
        for seed in SEEDS
    ]


def run_all(jobs: Iterable[Job] = JOBS) -> list[Run]:
    """Everything, on two processes."""
    pairs = [(job, optimizer) for job in jobs for optimizer in GRIDS]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        return [run for runs in pool.map(measure, *zip(*pairs, strict=True)) for run in runs]


@dataclass(frozen=True)
class Loss:
    """What a rule loses against batch 16, in accuracy points: over the tasks, and for each of them."""

    by_job: dict[str, float]
    mean: float
    error: float

    @property
    def worst(self) -> float:
        return min(self.by_job.values())


def differences(runs: Sequence[Run], optimizer: str, rule: str, times: int, to: str = "base") -> Loss:
    """Accuracy less that of another rule (``"base"``: batch 16), paired by seed.

    ``error`` is the standard error of the mean over these tasks that the seeds leave.
    """
    here = {
        (run.job, run.seed): run.accuracy
        for run in runs
        if (run.optimizer, run.rule, run.times) == (optimizer, rule, times)
    }
    there = {
        (run.job, run.seed): run.accuracy
        for run in runs
        if (run.optimizer, run.rule, run.times) == (optimizer, to, 1 if to == "base" else times)
    }
    by_job: dict[str, list[float]] = {}
    for (job, seed), accuracy in here.items():
        by_job.setdefault(job, []).append(accuracy - there[job, seed])
    means = {job: statistics.mean(values) for job, values in by_job.items()}
    variances = [statistics.variance(values) / len(values) for values in by_job.values()]
    return Loss(means, statistics.mean(means.values()), math.sqrt(sum(variances)) / len(variances))


def save(runs: Iterable[Run], path: Path) -> None:
    """One run a line."""
    path.write_text("[\n" + ",\n".join(json.dumps(asdict(run)) for run in runs) + "\n]\n")


def load(path: Path) -> list[Run]:
    """Reads what :func:`save` wrote."""
    return [Run(**row) for row in json.loads(path.read_text())]
