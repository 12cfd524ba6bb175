"""What a search for the batch size costs and how much of the true limit it finds, beside the peers.

All of them search on the same module and the same datamodule. What is counted goes from the call of ``fit`` to its
``on_train_start``, when the batch size is set and the loaders of the training are built; then the training goes on at
what was found. accelerate has no such moment: its decorator calls a function of the user again and again. Here that
function is a ``fit`` of three optimizer steps, and the count ends when it returned.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from accelerate.utils import find_executable_batch_size
from pytorch_lightning.callbacks import BatchSizeFinder
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import dataloader as torch_dataloader

from benchmarks.ground_truth import quiet_trainer
from benchmarks.tasks import cnn, mlp
from lightning_hp import BatchSizeScaler

VAL_BATCHES = 2
MAX_VAL = 8192  # the default of Lightning and of ours
STEPS = 3  # of a trial; so too
STEPS_AFTER = 5  # of the training at what was found


class Limited(pl.LightningModule):
    """A classifier that tells of its steps and, if told to, runs out of memory above a batch size."""

    def __init__(self, net: nn.Module, limit: int | None, on_step: Callable[[], None]) -> None:
        super().__init__()
        self.net = net
        self.lr = 1e-3
        self.limit = limit
        self.on_step = on_step

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.on_step()
        x, y = batch
        if self.limit is not None and len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return cross_entropy(self.net(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", cross_entropy(self.net(x), y), batch_size=len(x))

    def configure_optimizers(self) -> SGD:
        return SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Data(pl.LightningDataModule):
    """Loaders that follow ``batch_size``, which is what Lightning's finder asks for; more samples than it may try."""

    def __init__(self, shape: tuple[int, ...], samples: int = 3 * MAX_VAL) -> None:
        super().__init__()
        self.batch_size = 16
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(samples, *shape, generator=generator)
        self.dataset = TensorDataset(x, torch.randint(10, (samples,), generator=generator))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.dataset, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.dataset, batch_size=self.batch_size)


@dataclass(frozen=True)
class Subject:
    """A model and the shape of its inputs."""

    name: str
    net: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def module(self, limit: int | None, on_step: Callable[[], None]) -> Limited:
        torch.manual_seed(0)
        return Limited(self.net(), limit, on_step)


LINEAR = Subject("linear 8-10", lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 10)), (8,))
MLP = Subject("MLP 64-128-128-10", lambda: mlp(64, 128, 10), (64,))
CNN = Subject("CNN with BatchNorm 14x14", lambda: cnn(8, 10), (1, 14, 14))


class Counts:
    """Counts training steps, loaders that were constructed, copies of them, and iterators that were started.

    It is asked to count from outside: a rehearsal puts everything back that the module holds, counters too.
    """

    def __init__(self) -> None:
        self.steps = self.constructed = self.copied = self.iterators = 0
        self.started = time.perf_counter()

    def step(self) -> None:
        self.steps += 1

    def answer(self, size: int | None) -> dict[str, Any]:
        """What was counted until now, with the answer."""
        return {
            "size": size,
            "steps": self.steps,
            "constructed": self.constructed,
            "copied": self.copied,
            "iterators": self.iterators,
            "seconds": time.perf_counter() - self.started,
        }

    @contextlib.contextmanager
    def of_loaders(self) -> Iterator[Counts]:
        init, reduce_ex = DataLoader.__init__, DataLoader.__reduce_ex__
        iterator = torch_dataloader._BaseDataLoaderIter  # noqa: SLF001 - every iterator of a loader is one
        iterator_init = iterator.__init__

        def counted_init(loader: Any, *args: Any, **kwargs: Any) -> None:
            self.constructed += 1
            init(loader, *args, **kwargs)

        def counted_reduce_ex(loader: Any, protocol: Any) -> Any:  # `copy.copy` asks for it
            self.copied += 1
            return reduce_ex(loader, protocol)

        def counted_iterator(one: Any, *args: Any, **kwargs: Any) -> None:
            self.iterators += 1
            iterator_init(one, *args, **kwargs)

        DataLoader.__init__, DataLoader.__reduce_ex__ = counted_init, counted_reduce_ex
        iterator.__init__ = counted_iterator
        try:
            yield self
        finally:
            DataLoader.__init__, iterator.__init__ = init, iterator_init
            del DataLoader.__reduce_ex__


@dataclass(frozen=True)
class Search:
    """One search: what it took until the answer, the answer, and whether the training at it came through."""

    method: str
    size: int | None
    steps: int
    constructed: int
    copied: int
    iterators: int
    seconds: float
    error: str | None

    @property
    def loaders(self) -> int:
        return self.constructed + self.copied

    @property
    def survived(self) -> bool:
        return self.error is None


class _Begin(pl.Callback):
    """Notes the moment at which the training begins, and ends it after some steps and a validation."""

    def __init__(self, note: Callable[[int], None]) -> None:
        self.note = note

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.note(trainer.datamodule.batch_size)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = batch_idx + 1 >= STEPS_AFTER * trainer.accumulate_grad_batches


Method = Callable[..., None]


def _callback(build: Callable[[], pl.Callback]) -> Method:
    def run(module: Limited, data: Data, begin: _Begin, **options: Any) -> None:
        quiet_trainer(max_epochs=1, callbacks=[build(), begin], **options).fit(module, datamodule=data)

    return run


def _fit(module: Limited, data: Data, begin: _Begin, **options: Any) -> None:
    quiet_trainer(max_epochs=1, callbacks=[begin], **options).fit(module, datamodule=data)


def _accelerate(module: Limited, data: Data, begin: _Begin, **options: Any) -> None:
    def train(batch_size: int) -> None:
        data.batch_size = batch_size
        quiet_trainer(max_steps=STEPS, **options).fit(module, datamodule=data)

    find_executable_batch_size(train, starting_batch_size=MAX_VAL)()
    _fit(module, data, begin, **options)


OURS = 'BatchSizeScaler(objective="memory")'
LARGEST: dict[str, Any] = {"min_per_class": 0, "min_steps_per_epoch": 1, "min_training_steps": 1}
METHODS: dict[str, Method] = {
    "BatchSizeScaler": _callback(lambda: BatchSizeScaler(**LARGEST)),
    OURS: _callback(lambda: BatchSizeScaler(objective="memory", **LARGEST)),
    "Lightning power": _callback(lambda: BatchSizeFinder(mode="power")),
    "Lightning binsearch": _callback(lambda: BatchSizeFinder(mode="binsearch")),
    "accelerate, from 8192": _accelerate,
}


def search(
    method: str, subject: Subject, data: Data, limit: int | None = None, batch_size: int = 16, **options: Any
) -> Search:
    """Runs one search from a batch size and, at what it found, the first steps of the training and a validation."""
    found: dict[str, Any] = {}
    error = None
    gc.collect()
    data.batch_size = batch_size
    with tempfile.TemporaryDirectory() as folder, hushed():
        counts = Counts()
        begin = _Begin(lambda size: found.update(counts.answer(size)))
        with counts.of_loaders():
            try:
                METHODS.get(method, _fit)(
                    subject.module(limit, counts.step), data, begin, default_root_dir=folder, **options
                )
            except (RuntimeError, MemoryError, MisconfigurationException) as failure:
                error = f"{type(failure).__name__}: {failure}".splitlines()[0]
    return Search(method, error=error, **(found or counts.answer(None)))


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Lightning and the libraries on it have much to say."""
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


LIMITS = (100, 777, 1024, 3000, 6500)
REPEATS = 5


@dataclass(frozen=True)
class Injected:
    """One search under an injected limit."""

    limit: int
    accumulate: int
    search: Search

    @property
    def share(self) -> float:
        return (self.search.size or 0) / self.limit


def run_injected(limits: Sequence[int] = LIMITS, accumulate: int = 1, subject: Subject = LINEAR) -> list[Injected]:
    """Every method under every limit."""
    data = Data(subject.shape)
    found = []
    for limit in limits:
        for method in METHODS:
            one = search(
                method, subject, data, limit, accumulate_grad_batches=accumulate, limit_val_batches=VAL_BATCHES
            )
            found.append(Injected(limit, accumulate, one))
    return found


@dataclass(frozen=True)
class Wall:
    """How long a method takes until its answer: median, and the ratio of ours (by largest size) to it."""

    subject: str
    method: str
    size: int | None
    seconds: float
    ratio: float


def run_wall(subjects: Sequence[Subject] = (MLP, CNN), limit: int = 777, repeats: int = REPEATS) -> list[Wall]:
    """All methods in turn, several rounds; each is compared with ours of the same round."""
    walls = []
    for subject in subjects:
        data = Data(subject.shape)
        rounds: dict[str, list[Search]] = {name: [] for name in METHODS}
        names = list(METHODS)
        for number in range(repeats + 1):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                one = search(name, subject, data, limit, limit_val_batches=VAL_BATCHES)
                if number:  # the first round warms up
                    rounds[name].append(one)
        ours = [one.seconds for one in rounds[OURS]]
        for name, searches in rounds.items():
            seconds = [one.seconds for one in searches]
            ratio = statistics.median(own / other for own, other in zip(ours, seconds, strict=True))
            walls.append(Wall(subject.name, name, searches[-1].size, statistics.median(seconds), ratio))
        print(f"batch search: wall time on {subject.name} done", flush=True)
    return walls
