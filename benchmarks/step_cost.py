"""Cost of one step of a learning-rate finder, as a ratio to one step of ``Trainer.fit``.

The model records when each of its forward passes starts. The time between two starts is a whole step: data, hooks,
backward pass, optimizer and bookkeeping. ``fit`` and finders run interleaved (see :mod:`benchmarks.interleaved`), and
each turn of a finder is compared with the turn of ``fit`` next to it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from benchmarks.interleaved import InterleavedRun, median_ratio, run_rounds
from benchmarks.tasks import cnn, mlp
from benchmarks.trainers import ON_CPU, Where, quiet_trainer
from lightning_hp import LRFinder


class Ticking(pl.LightningModule):
    """A classifier that calls a function when each of its forward passes starts."""

    def __init__(self, net: nn.Module, tick: Callable[[], None]) -> None:
        super().__init__()
        self.net = net
        self.lr = 1e-4
        self.tick = tick

    def forward(self, x: Tensor) -> Tensor:
        self.tick()
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self) -> SGD:
        return SGD(self.parameters(), lr=self.lr, momentum=0.9)


@dataclass(frozen=True)
class Job:
    """A model and its batches."""

    name: str
    net: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch_size: int
    steps_a_turn: int  # no multiple of 8: LRFinder reads its losses every 8 steps, which has to be included
    turns: int
    rounds: int
    where: Where = ON_CPU
    repeats_one_batch: bool = False  # where collating large samples would take longer than a step

    @property
    def steps(self) -> int:
        return self.steps_a_turn * self.turns

    def loader(self) -> DataLoader[tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(0)
        count = self.batch_size * (1 if self.repeats_one_batch else self.steps)
        x = torch.randn(count, *self.shape, generator=generator)
        y = torch.randint(10, (count,), generator=generator)
        if self.repeats_one_batch:
            pinned, again = self.where.device.type != "cpu", [0] * self.steps
            return DataLoader(TensorDataset(x[None], y[None]), batch_size=None, sampler=again, pin_memory=pinned)
        return DataLoader(TensorDataset(x, y), batch_size=self.batch_size, shuffle=True)


JOBS = (
    Job("MLP 64-128-128-10, batch 64", lambda: mlp(64, 128, 10), (1, 8, 8), 64, 7, 45, 5),
    Job("CNN with BatchNorm 14x14, batch 64", lambda: cnn(8, 10), (1, 14, 14), 64, 7, 24, 5),
    Job("ResNet-18 32x32, batch 32", lambda: resnet18(num_classes=10), (3, 32, 32), 32, 3, 16, 5),
)


@dataclass(frozen=True)
class Cost:
    """The cost of one driver on one job."""

    job: str
    driver: str
    step_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rest_ms: float


def _fit(job: Job, module: Ticking) -> None:
    quiet_trainer(max_steps=job.steps, **job.where.trainer).fit(module, job.loader())


def _lr_finder(job: Job, module: Ticking) -> None:
    finder = LRFinder(min_lr=1e-7, max_lr=1e-4, num_training_steps=job.steps, num_repeats=1, zoom=False)
    finder.find(quiet_trainer(max_steps=job.steps, **job.where.trainer), module, job.loader())


def _lightning(job: Job, module: Ticking) -> None:
    from pytorch_lightning.tuner import Tuner

    with tempfile.TemporaryDirectory() as folder:
        trainer = quiet_trainer(max_steps=job.steps, default_root_dir=folder, **job.where.trainer)
        Tuner(trainer).lr_find(
            module, job.loader(), min_lr=1e-7, max_lr=1e-4, num_training=job.steps, update_attr=False
        )


def _torch_lr_finder(job: Job, module: Ticking) -> None:
    from torch_lr_finder import LRFinder as TorchLRFinder

    module.lr = 1e-7
    finder = TorchLRFinder(module, module.configure_optimizers(), nn.CrossEntropyLoss(), device="cpu")
    finder.range_test(job.loader(), end_lr=1e-4, num_iter=job.steps)
    finder.reset()


Driver = Callable[[Job, Ticking], None]
DRIVERS: dict[str, Driver] = {
    "Trainer.fit": _fit,
    "LRFinder": _lr_finder,
    "Lightning lr_find": _lightning,
    "torch-lr-finder": _torch_lr_finder,
}


def measure(job: Job) -> list[Cost]:
    """Runs all drivers interleaved."""
    turns, rest = run_rounds({name: partial(_drive, job, name) for name in DRIVERS}, job.steps_a_turn, job.rounds)
    return [_cost(job, name, turns[name], turns["Trainer.fit"], rest[name]) for name in DRIVERS]


def run_all() -> list[Cost]:
    """Runs all jobs, one after the other."""
    costs: list[Cost] = []
    for job in JOBS:
        costs += measure(job)
        print(f"step cost: finished {job.name}", flush=True)
    return costs


def _drive(job: Job, name: str, run: InterleavedRun) -> None:
    torch.manual_seed(0)
    DRIVERS[name](job, Ticking(job.net(), partial(run.tick, name)))


def _cost(job: Job, name: str, turns: list[float], of_fit: list[float], rest: list[float]) -> Cost:
    step_ms, rest_ms = 1e3 * statistics.median(turns), 1e3 * statistics.median(rest)
    return Cost(job.name, name, step_ms, *median_ratio(turns, of_fit), rest_ms)
