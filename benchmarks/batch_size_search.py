"""Cost of batch-size searches, and the share of a known limit that they find, compared with other libraries.

All methods search on the same module and the same datamodule. Counted is everything from the call of ``fit`` to its
``on_train_start``, when the batch size is set and the training loaders are built. The training then continues at the
found size. accelerate has no such moment: its decorator calls a function of the user repeatedly. Here this function is
a ``fit`` of three optimizer steps, and the count ends when it returns.
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

from benchmarks.tasks import cnn, mlp
from benchmarks.trainers import quiet_trainer
from lightning_hp import BatchSizeScaler

VAL_BATCHES = 2
MAX_VAL = 8192  # the default of both BatchSizeFinder and BatchSizeScaler
STEPS = 3  # of one trial; also the default of both
STEPS_AFTER = 5  # of the training at the found size


class Limited(pl.LightningModule):
    """A classifier that reports its steps and, with a limit, runs out of memory above a batch size."""

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
    """Loaders that follow ``batch_size``, as Lightning's finder requires; it has more samples than any size tried."""

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
class Model:
    """A model and the shape of its inputs."""

    name: str
    net: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def module(self, limit: int | None, on_step: Callable[[], None]) -> Limited:
        torch.manual_seed(0)
        return Limited(self.net(), limit, on_step)


LINEAR = Model("linear 8-10", lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 10)), (8,))
MLP = Model("MLP 64-128-128-10", lambda: mlp(64, 128, 10), (64,))
CNN = Model("CNN with BatchNorm 14x14", lambda: cnn(8, 10), (1, 14, 14))


class Counts:
    """Counts training steps, constructed loaders, copied loaders and started iterators.

    The counts are kept outside of the module, since a rehearsal restores everything in it.
    """

    def __init__(self) -> None:
        self.steps = self.constructed = self.copied = self.iterators = 0
        self.started = time.perf_counter()

    def step(self) -> None:
        self.steps += 1

    def answer(self, size: int | None) -> dict[str, Any]:
        """The counts up to now, with the found size."""
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
        iterator = torch_dataloader._BaseDataLoaderIter  # noqa: SLF001 - the base class of all loader iterators
        iterator_init = iterator.__init__

        def counted_init(loader: Any, *args: Any, **kwargs: Any) -> None:
            self.constructed += 1
            init(loader, *args, **kwargs)

        def counted_reduce_ex(loader: Any, protocol: Any) -> Any:  # called by `copy.copy`
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
    """One search: its cost, the found size, and the error of the search or of the training after it."""

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


class _TrainingStart(pl.Callback):
    """Records when the training begins, and ends it after some steps and a validation."""

    def __init__(self, record: Callable[[int], None]) -> None:
        self.record = record

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.record(trainer.datamodule.batch_size)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = batch_idx + 1 >= STEPS_AFTER * trainer.accumulate_grad_batches


Method = Callable[..., None]


def _callback(build: Callable[[], pl.Callback]) -> Method:
    def run(module: Limited, data: Data, begin: _TrainingStart, **options: Any) -> None:
        quiet_trainer(max_epochs=1, callbacks=[build(), begin], **options).fit(module, datamodule=data)

    return run


def _fit(module: Limited, data: Data, begin: _TrainingStart, **options: Any) -> None:
    quiet_trainer(max_epochs=1, callbacks=[begin], **options).fit(module, datamodule=data)


def _accelerate(module: Limited, data: Data, begin: _TrainingStart, **options: Any) -> None:
    def train(batch_size: int) -> None:
        data.batch_size = batch_size
        quiet_trainer(max_steps=STEPS, **options).fit(module, datamodule=data)

    find_executable_batch_size(train, starting_batch_size=MAX_VAL)()
    _fit(module, data, begin, **options)


SCALER = 'BatchSizeScaler(objective="memory")'
LARGEST: dict[str, Any] = {
    "min_per_class": 0,
    "limits": {"min_steps_per_epoch": 1, "min_training_steps": 1, "min_step_share": 1e-6},
}
METHODS: dict[str, Method] = {
    "BatchSizeScaler": _callback(lambda: BatchSizeScaler(**LARGEST)),
    SCALER: _callback(lambda: BatchSizeScaler(objective="memory", **LARGEST)),
    "Lightning power": _callback(lambda: BatchSizeFinder(mode="power")),
    "Lightning binsearch": _callback(lambda: BatchSizeFinder(mode="binsearch")),
    "accelerate, from 8192": _accelerate,
}


def search(
    method: str, model: Model, data: Data, limit: int | None = None, batch_size: int = 16, **options: Any
) -> Search:
    """Runs one search from a batch size, then the first steps of the training and a validation at the found size."""
    found: dict[str, Any] = {}
    error = None
    gc.collect()
    data.batch_size = batch_size
    with tempfile.TemporaryDirectory() as folder, silenced():
        counts = Counts()
        begin = _TrainingStart(lambda size: found.update(counts.answer(size)))
        with counts.of_loaders():
            try:
                METHODS.get(method, _fit)(
                    model.module(limit, counts.step), data, begin, default_root_dir=folder, **options
                )
            except (RuntimeError, MemoryError, MisconfigurationException) as failure:
                error = f"{type(failure).__name__}: {failure}".splitlines()[0]
    return Search(method, error=error, **(found or counts.answer(None)))


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Discards the output and log messages of Lightning and of other libraries."""
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


def run_injected(limits: Sequence[int] = LIMITS, accumulate: int = 1, model: Model = LINEAR) -> list[Injected]:
    """Runs every method under every limit."""
    data = Data(model.shape)
    found = []
    for limit in limits:
        for method in METHODS:
            one = search(method, model, data, limit, accumulate_grad_batches=accumulate, limit_val_batches=VAL_BATCHES)
            found.append(Injected(limit, accumulate, one))
    return found


@dataclass(frozen=True)
class Wall:
    """Median time of a method until its result, and the ratio of the time of ``SCALER`` to it."""

    model: str
    method: str
    size: int | None
    seconds: float
    ratio: float


def run_wall(models: Sequence[Model] = (MLP, CNN), limit: int = 777, repeats: int = REPEATS) -> list[Wall]:
    """Runs all methods in turn for several rounds; each is compared with ``SCALER`` in the same round."""
    walls = []
    for model in models:
        data = Data(model.shape)
        rounds: dict[str, list[Search]] = {name: [] for name in METHODS}
        names = list(METHODS)
        for number in range(repeats + 1):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                one = search(name, model, data, limit, limit_val_batches=VAL_BATCHES)
                if number:  # the first round is a warm-up
                    rounds[name].append(one)
        reference = [one.seconds for one in rounds[SCALER]]
        for name, searches in rounds.items():
            seconds = [one.seconds for one in searches]
            ratio = statistics.median(own / other for own, other in zip(reference, seconds, strict=True))
            walls.append(Wall(model.name, name, searches[-1].size, statistics.median(seconds), ratio))
        print(f"batch size, wall time: finished {model.name}", flush=True)
    return walls
