"""What one step of a finder costs, as a ratio to one step of plain ``Trainer.fit``.

A clock inside the model notes when each forward pass starts. From one start to the next is a whole step of whoever
drives: data, hooks, backward, optimizer, bookkeeping. The clock counts the processor time of this process (one
thread), so that other work on the machine does not enter. Fit and finders take turns; medians are taken over the
steps, ratios within a round, and medians over the rounds.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from benchmarks.ground_truth import quiet_trainer
from benchmarks.tasks import cnn, mlp
from lightning_hp import LRFinder

# Not on the module: a rehearsal puts back what hangs on it.
_TICKS: list[float] = []
WARM_UP = 3  # first steps of a drive that do not count


class Clocked(pl.LightningModule):
    """A classifier that notes when each of its forward passes starts."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.lr = 1e-4

    def forward(self, x: Tensor) -> Tensor:
        _TICKS.append(time.process_time())
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
    steps: int
    rounds: int

    def module(self) -> Clocked:
        torch.manual_seed(0)
        return Clocked(self.net())

    def loader(self) -> DataLoader[tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(0)
        count = self.batch_size * self.steps
        x = torch.randn(count, *self.shape, generator=generator)
        y = torch.randint(10, (count,), generator=generator)
        return DataLoader(TensorDataset(x, y), batch_size=self.batch_size, shuffle=True)


JOBS = (
    Job("MLP 64-128-128-10, batch 64", lambda: mlp(64, 128, 10), (1, 8, 8), 64, 200, 15),
    Job("CNN with BatchNorm 14x14, batch 64", lambda: cnn(8, 10), (1, 14, 14), 64, 100, 11),
    Job("ResNet-18 32x32, batch 32", lambda: resnet18(num_classes=10), (3, 32, 32), 32, 20, 7),
)


@dataclass(frozen=True)
class Cost:
    """One driver on one job."""

    job: str
    driver: str
    step_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rest_ms: float


def _fit(job: Job, module: Clocked) -> None:
    quiet_trainer(max_steps=job.steps).fit(module, job.loader())


def _ours(job: Job, module: Clocked) -> None:
    finder = LRFinder(min_lr=1e-7, max_lr=1e-4, num_training_steps=job.steps, num_repeats=1)
    finder.find(quiet_trainer(max_steps=job.steps), module, job.loader())


def _lightning(job: Job, module: Clocked) -> None:
    from pytorch_lightning.tuner import Tuner

    with tempfile.TemporaryDirectory() as folder:
        trainer = quiet_trainer(max_steps=job.steps, default_root_dir=folder)
        Tuner(trainer).lr_find(
            module, job.loader(), min_lr=1e-7, max_lr=1e-4, num_training=job.steps, update_attr=False
        )


def _torch_lr_finder(job: Job, module: Clocked) -> None:
    from torch_lr_finder import LRFinder as TorchLRFinder

    module.lr = 1e-7
    finder = TorchLRFinder(module, module.configure_optimizers(), nn.CrossEntropyLoss(), device="cpu")
    finder.range_test(job.loader(), end_lr=1e-4, num_iter=job.steps)
    finder.reset()


DRIVERS: dict[str, Callable[[Job, Clocked], None]] = {
    "Trainer.fit": _fit,
    "LRFinder": _ours,
    "Lightning lr_find": _lightning,
    "torch-lr-finder": _torch_lr_finder,
}


def measure(job: Job) -> list[Cost]:
    """Every driver takes its turn in every round; the order turns with the rounds."""
    step: dict[str, list[float]] = {name: [] for name in DRIVERS}
    rest: dict[str, list[float]] = {name: [] for name in DRIVERS}
    names = list(DRIVERS)
    for turn in range(job.rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            module = job.module()
            _TICKS.clear()
            start = time.process_time()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                DRIVERS[name](job, module)
            whole = time.process_time() - start
            gaps = [later - earlier for earlier, later in pairwise(_TICKS)]
            if turn:  # the first round warms up imports and caches
                step[name].append(statistics.median(gaps[WARM_UP:]))
                rest[name].append(whole - sum(gaps))
    costs = []
    for name in names:
        ratios = sorted(one / fit for one, fit in zip(step[name], step["Trainer.fit"], strict=True))
        quarter = len(ratios) // 4
        costs.append(
            Cost(
                job.name,
                name,
                1e3 * statistics.median(step[name]),
                statistics.median(ratios),
                ratios[quarter],
                ratios[-1 - quarter],
                1e3 * statistics.median(rest[name]),
            )
        )
    return costs


def run_all() -> list[Cost]:
    """All jobs, one after the other."""
    costs: list[Cost] = []
    for job in JOBS:
        costs += measure(job)
        print(f"step cost: {job.name} done", flush=True)
    return costs
