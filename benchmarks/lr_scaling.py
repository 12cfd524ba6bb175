"""Accuracy at equal epochs with a larger batch, for every rule that scales the learning rate with the batch size.

For each task and optimizer, the best LR at batch size 16 is selected from a small grid. The batch size is then
multiplied by 2 to 16, and the LR follows a rule or is selected again at the larger batch size, as the reference. LRs
are selected with other seeds than those that are reported, since otherwise the selected ones have a biased accuracy.
All trainings use exactly as many samples, with a cosine decay to zero, which reduces the noise of the final accuracy.
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

from benchmarks import datasets
from benchmarks.tasks import cnn, letters_mlp, mlp
from lightning_hp import functional as hpf

BASE_BATCH = 16
TIMES = (2, 4, 8, 16)
RULES = ("unchanged", "sqrt", "sqrt, warm-up", "linear", "linear, warm-up", "retuned")
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
    """Data, model and length of a training."""

    name: str
    split: Callable[[], datasets.Split]
    net: Callable[[], nn.Module]
    epochs: int

    def num_steps(self, batch_size: int) -> int:
        return self.epochs * len(self.split().x_train) // batch_size


JOBS = (
    Job("digits-mlp", datasets.digits, partial(mlp, 64, 128, 10), 16),
    Job("digits-cnn", datasets.digits, partial(cnn, 16, 10), 10),
    Job("mnist-mlp", datasets.mnist, partial(mlp, 196, 256, 10, dropout=0.2), 8),
    Job("cancer-mlp", datasets.cancer, partial(mlp, 30, 64, 2), 32),
    Job("text-mlp", datasets.text, letters_mlp, 2),
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
    """Trains once and returns the test accuracy in percent; ``warm_from`` is the LR at which a warm-up starts."""
    torch.manual_seed(seed)
    net, split, num_steps = job.net(), job.split(), job.num_steps(batch_size)
    optimizer = OPTIMIZERS[optimizer_name](net.parameters(), lr=lr)
    # The recommended length, also where no warm-up is recommended, to measure from which k on it helps.
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
            break  # NaN weights do not recover
    net.eval()
    with torch.no_grad():
        return 100.0 * (net(split.x_test).argmax(1) == split.y_test).float().mean().item()


def _batches(num_samples: int, batch_size: int, epochs: int) -> Iterator[Tensor]:
    """Full batches over shuffled epochs; a batch may span two epochs, so that no sample is dropped."""
    order = torch.cat([torch.randperm(num_samples) for _ in range(epochs)])
    for start in range(0, len(order) - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def pick_lr(job: Job, optimizer: str, batch_size: int, lrs: Sequence[float]) -> float:
    """The best LR of a grid with factor two, by accuracy smoothed over neighbours: the middle of a plateau."""
    means = [statistics.mean(train(job, optimizer, batch_size, lr, seed, None) for seed in PICKING_SEEDS) for lr in lrs]
    padded = [means[0], *means, means[-1]]
    smooth = [
        (left + 2 * middle + right) / 4 for left, middle, right in zip(padded, padded[1:], padded[2:], strict=False)
    ]
    return lrs[smooth.index(max(smooth))]


def measure(job: Job, optimizer: str) -> list[Run]:
    """Runs all rules at all batch sizes, for one task and optimizer."""
    torch.set_num_threads(1)
    base_lr = pick_lr(job, optimizer, BASE_BATCH, GRIDS[optimizer])
    runs = _report(job, optimizer, "base", 1, base_lr, None)
    for times in TIMES:
        size = times * BASE_BATCH
        for rule in RULES[:-1]:
            kind, _, warm = rule.partition(", ")
            lr = base_lr if kind == "unchanged" else hpf.scale_lr(base_lr, size, BASE_BATCH, kind)
            runs += _report(job, optimizer, rule, times, lr, base_lr if warm else None)
        # From the base LR to twice the LR of the linear rule.
        grid = [base_lr * 2**i for i in range(int(math.log2(times)) + 2)]
        runs += _report(job, optimizer, "retuned", times, pick_lr(job, optimizer, size, grid), None)
    print(f"lr scaling: finished {job.name} with {optimizer}", flush=True)
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
    """Runs everything in two processes."""
    pairs = [(job, optimizer) for job in jobs for optimizer in GRIDS]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        return [run for runs in pool.map(measure, *zip(*pairs, strict=True)) for run in runs]


@dataclass(frozen=True)
class Loss:
    """The accuracy of a rule minus that of batch size 16, in points: mean over the tasks, and each task."""

    by_job: dict[str, float]
    mean: float
    error: float

    @property
    def worst(self) -> float:
        return min(self.by_job.values())


def differences(runs: Sequence[Run], optimizer: str, rule: str, times: int, to: str = "base") -> Loss:
    """Accuracy minus that of another rule (``"base"``: batch size 16), paired by seed.

    ``error`` is the standard error of the mean over these tasks that is due to the seeds.
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
    """Writes one line per run."""
    path.write_text("[\n" + ",\n".join(json.dumps(asdict(run)) for run in runs) + "\n]\n")


def load(path: Path) -> list[Run]:
    """Reads what :func:`save` wrote."""
    return [Run(**row) for row in json.loads(path.read_text())]
