"""The time of a step of SAM beyond its floor: two forward and backward passes and one step of the optimizer.

All drivers run in turns of a few steps (see :mod:`benchmarks.interleaved`), and each turn is compared with the adjacent
turn of the floor. Loops without Lightning are compared with a floor without Lightning, the callback with a floor inside
``Trainer.fit``. Memory is the peak of a separate process.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

import lightning_hp.functional as hpf
from benchmarks.interleaved import InterleavedRun, median_ratio, run_rounds
from benchmarks.trainers import ON_CPU, Where, quiet_trainer
from lightning_hp import SAM

RHO = 0.05


class Deep(nn.Module):
    """A chain of small residual layers: hundreds of small tensors."""

    def __init__(self, width: int = 23, depth: int = 401) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + 0.05 * torch.relu(layer(x))
        return x


@dataclass(frozen=True)
class Job:
    """A model and its batches."""

    name: str
    net: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch_size: int
    steps_a_turn: int
    turns: int
    rounds: int
    where: Where = ON_CPU

    @property
    def steps(self) -> int:
        return self.steps_a_turn * self.turns

    def batch(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch_size, *self.shape)
        return torch.randn(shape, generator=generator), torch.randint(10, (self.batch_size,), generator=generator)


# Many rounds of few turns: the state of the allocator differs from process to process and stays in each.
JOBS = (
    Job("802 small tensors, batch 32", Deep, (23,), 32, 5, 8, 5),
    Job(
        "25 M weights in 8 tensors, batch 2",
        lambda: nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(2508, 2508), nn.ReLU()))),
        (2508,), 2, 4, 5, 12,
    ),
    Job("ResNet-18 32x32, batch 64", lambda: resnet18(num_classes=10), (3, 32, 32), 64, 3, 4, 9),
)  # fmt: skip
HEAVY = JOBS[1]


@dataclass(frozen=True)
class Cost:
    """The cost of one driver on one job."""

    job: str
    driver: str
    step_ms: float
    over: float  # time beyond the floor, as a share of the floor: of that without Lightning, or of that in `fit`
    over_low: float
    over_high: float
    peak: float | None = None  # memory in units of the size of the weights

    @property
    def is_floor(self) -> bool:
        return _floor_of(self.driver) == self.driver


def _loop(job: Job, tick: Callable[[], None], make_step: Callable[[nn.Module, Callable[[], Tensor]], Any]) -> None:
    net, (x, y) = job.where.place(job.net()), job.where.batch(*job.batch())

    def backward() -> Tensor:
        with job.where.autocast():
            loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        return loss

    step = make_step(net, backward)
    for _ in range(job.steps):
        tick()
        step()


def _sgd(net: nn.Module) -> SGD:
    return SGD(net.parameters(), lr=1e-4, momentum=0.9)


def _one_pass(net: nn.Module, backward: Callable[[], Tensor]) -> Any:
    optimizer = _sgd(net)

    def step() -> None:
        backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _two_passes(net: nn.Module, backward: Callable[[], Tensor]) -> Any:
    optimizer = _sgd(net)

    def step() -> None:
        backward()
        optimizer.zero_grad()
        backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _perturbation(net: nn.Module, backward: Callable[[], Tensor]) -> Any:
    optimizer, sam = _sgd(net), hpf.Perturbation(net.parameters(), RHO)

    def step() -> None:
        backward()
        with sam.ascended():
            backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _published(net: nn.Module, backward: Callable[[], Tensor]) -> Any:
    """The form that most repositories share: clone w, add a newly allocated e, assign the clone to ``.data``."""
    optimizer = _sgd(net)
    old: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def ascend() -> None:
        norm = torch.stack([p.grad.norm(p=2) for p in net.parameters() if p.grad is not None]).norm(p=2)
        scale = RHO / (norm + 1e-12)
        for p in net.parameters():
            if p.grad is not None:
                old[p] = p.data.clone()
                p.add_(p.grad * scale.to(p))
        optimizer.zero_grad()

    def step() -> None:
        backward()
        ascend()
        backward()
        for p in net.parameters():
            p.data = old[p]
        optimizer.step()
        optimizer.zero_grad()

    return step


def _pytorch_optimizer(net: nn.Module, backward: Callable[[], Tensor], foreach: bool | None = None) -> Any:
    import pytorch_optimizer

    optimizer = pytorch_optimizer.SAM(net.parameters(), SGD, rho=RHO, foreach=foreach, lr=1e-4, momentum=0.9)

    def step() -> None:
        backward()
        optimizer.step(backward)
        optimizer.zero_grad()

    return step


class _Ticking(pl.LightningModule):
    """A classifier that reports the start of each training step; a second pass does not count."""

    def __init__(self, net: nn.Module, tick: Callable[[], None], passes: int) -> None:
        super().__init__()
        self.net = net
        self.tick = tick
        self.passes = passes
        self.inputs: Any = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.tick()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.inputs = batch
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def backward(self, loss: Tensor) -> None:
        loss.backward()
        for _ in range(self.passes - 1):
            self.optimizers().zero_grad()  # type: ignore[union-attr]
            with self.trainer.precision_plugin.forward_context():
                again = nn.functional.cross_entropy(self.net(self.inputs[0]), self.inputs[1])
            again.backward()

    def configure_optimizers(self) -> SGD:
        return _sgd(self.net)


def _fit(job: Job, tick: Callable[[], None], passes: int = 1, **sam: Any) -> None:
    x, y = job.batch()
    whole = TensorDataset(x[None], y[None])
    pinned = job.where.device.type != "cpu"
    loader = DataLoader(whole, batch_size=None, sampler=[0] * job.steps, pin_memory=pinned)
    module = _Ticking(job.where.form(job.net()), tick, passes)
    quiet_trainer(max_epochs=1, callbacks=[SAM(**sam)] if sam else [], **job.where.trainer).fit(module, loader)


Driver = Callable[[Job, Callable[[], None]], None]
DRIVERS: dict[str, Driver] = {
    "one pass": partial(_loop, make_step=_one_pass),
    "two passes": partial(_loop, make_step=_two_passes),
    "hpf.Perturbation": partial(_loop, make_step=_perturbation),
    "usual published loop": partial(_loop, make_step=_published),
    "pytorch_optimizer": partial(_loop, make_step=_pytorch_optimizer),
    "pytorch_optimizer, foreach": partial(_loop, make_step=partial(_pytorch_optimizer, foreach=True)),
    "Trainer.fit, one pass": _fit,
    "Trainer.fit, SAM not due": partial(_fit, rho=RHO, interval=10**6),
    "Trainer.fit, two passes": partial(_fit, passes=2),
    "Trainer.fit, SAM": partial(_fit, rho=RHO),
}


def measure(job: Job) -> list[Cost]:
    """Runs all drivers side by side."""
    turns, _ = run_rounds({name: partial(_drive, job, name) for name in DRIVERS}, job.steps_a_turn, job.rounds)
    return [_cost(job, name, turns) for name in DRIVERS]


def run_all() -> list[Cost]:
    """All jobs, one after the other, and the memory of the job with most weights."""
    costs: list[Cost] = []
    for job in JOBS:
        costs += measure(job)
        print(f"sam cost: {job.name} done", flush=True)
    without = peak("")
    weights = sum(p.numel() * p.element_size() for p in HEAVY.net().parameters())
    return [
        replace(cost, peak=(peak(cost.driver) - without) / weights) if cost.job == HEAVY.name else cost
        for cost in costs
    ]


def peak(driver: str) -> float:
    """Peak memory of a process that runs the heavy job, in bytes; without a driver, of one with few weights."""
    code = f"from benchmarks.sam_cost import print_peak; print_peak({driver!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return 1024 * float(done.stdout.split()[-1])


def print_peak(driver: str) -> None:
    """Trains a few steps and prints the peak memory of this process in KiB; without a driver, a net of few weights."""
    import resource
    import warnings

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    job = HEAVY
    short = Job(job.name, job.net, job.shape, job.batch_size, 4, 1, 1)
    small = Job(job.name, lambda: nn.Linear(8, 10), (8,), 2, 4, 1, 1)
    import pytorch_optimizer  # noqa: F401

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        DRIVERS[driver or "Trainer.fit, SAM"](short if driver else small, lambda: None)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _drive(job: Job, name: str, run: InterleavedRun) -> None:
    in_use = _fill_heap()
    torch.manual_seed(0)
    DRIVERS[name](job, partial(run.tick, name))
    del in_use


def _fill_heap() -> list[Tensor]:
    """Allocates blocks of random sizes and frees half of them, differently in each process.

    The layout of the heap decides whether the allocator returns freed gradients to the system, which then has to clear
    their memory again.
    """
    generator = random.Random(os.getpid())
    blocks = [torch.ones(generator.randrange(1 << generator.randrange(10, 24))) for _ in range(40)]
    generator.shuffle(blocks)
    return blocks[:20]


def _floor_of(name: str) -> str:
    if not name.startswith("Trainer.fit"):
        return "one pass" if name == "one pass" else "two passes"
    return "Trainer.fit, one pass" if name.endswith(("one pass", "not due")) else "Trainer.fit, two passes"


def _cost(job: Job, name: str, turns: dict[str, list[float]]) -> Cost:
    over, low, high = (ratio - 1 for ratio in median_ratio(turns[name], turns[_floor_of(name)]))
    return Cost(job.name, name, 1e3 * statistics.median(turns[name]), over, low, high)
