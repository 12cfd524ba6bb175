"""Batch-size searches under a watchdog that ends the process: how often it acts, and how much of the room is used.

Linux ends a process that exceeds ``memory.max`` of its control group. Here that limit is simulated: it is told to the
search as the limit of a control group, and the largest resident memory of the process is read from the kernel's own
record (``VmHWM``) before the search resets it and at the end. A process would have been ended if the record exceeded
the limit, during the search or in the training after it. So no allocation is missed, and the machine may be busy.

Each search runs in a process of its own, forked from one that has only imported modules.
"""

from __future__ import annotations

import gc
import json
import math
import multiprocessing
import statistics
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from benchmarks.batch_size_search import silenced
from benchmarks.pages import FOLDER, table, versions
from benchmarks.trainers import quiet_trainer
from lightning_hp import BatchSizeScaler
from lightning_hp.functional.batch_size.memory import MIB
from lightning_hp.memory import host
from lightning_hp.memory.limits import HostLimit, status
from lightning_hp.memory.release import trim_heap

PATH = FOLDER / "batch_size_watchdog.json"
STEPS_AFTER = 8  # of the training at the found size
LARGEST: dict[str, Any] = {"min_per_class": 0, "limits": {"min_steps_per_epoch": 1, "min_training_steps": 1}}


class Rows(Dataset[tuple[Tensor, int]]):
    """Inputs that take no memory while they are not used, and are made a batch at a time."""

    def __init__(self, *shape: int, length: int = 100_000) -> None:
        self.shape = shape
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full(self.shape, index % 7 / 7), index % 3

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        numbers = torch.tensor(indices)
        values = (numbers % 7 / 7).view(-1, *[1] * len(self.shape))
        return values.expand(-1, *self.shape).contiguous(), numbers % 3


def _as_it_is(batch: Any) -> Any:
    return batch


class Classifier(pl.LightningModule):
    """A classifier of rows of 8 numbers."""

    shape: tuple[int, ...] = (8,)

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = 16
        self.net = self.build()

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8192), nn.ReLU(), nn.Linear(8192, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self.net(batch[0]), batch[1]), batch_size=len(batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)

    def train_dataloader(self) -> Any:
        return DataLoader(Rows(*self.shape), batch_size=self.batch_size, collate_fn=_as_it_is)

    def val_dataloader(self) -> Any:
        rows = Rows(*self.shape, length=2 * self.batch_size)
        return DataLoader(rows, batch_size=self.batch_size, collate_fn=_as_it_is)


class AllPairs(Classifier):
    """A loss over all pairs of a batch: memory grows as the square."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        features = self.net(batch[0])
        return (features @ features.T).exp().log1p().mean()


class Cubic(Classifier):
    """A loss over all triples of a batch."""

    def build(self) -> nn.Module:
        return nn.Linear(8, 8)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        rows = self.net(batch[0]).mean(1)
        return (rows[:, None, None] * rows[None, :, None] * rows[None, None, :]).square().mean()


class Convolutional(Classifier):
    """A network with batch normalisation; torch keeps the code of its convolutions, half a MiB for each size."""

    shape = (3, 32, 32)

    def build(self) -> nn.Module:
        def block(width: int, out: int) -> list[nn.Module]:
            return [nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]

        pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
        return nn.Sequential(*block(3, 8), *block(8, 8), *pooled)


class Deep(Classifier):
    """Many small layers: no tensor is large."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 64), *[layer for _ in range(40) for layer in (nn.Linear(64, 64), nn.ReLU())])


class FifthStep(Classifier):
    """A batch that takes three times as much in its fifth step."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if self.trainer.fit_loop.epoch_loop.total_batch_idx % 5 == 4:
            for _ in range(2):
                loss = loss + super().training_step(batch, batch_idx)
        return loss


class LargeValidation(Classifier):
    """A validation that takes several times what a training step takes."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        with torch.enable_grad():
            outputs = [self.net(batch[0]) for _ in range(4)]
        self.log("val_loss", torch.stack(outputs).mean().detach(), batch_size=len(batch[1]))


class FixedState(Classifier):
    """Weights and optimizer state take more than the activations of a few hundred samples."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 3))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


KINDS: dict[str, type[Classifier]] = {
    "linear": Classifier,
    "all pairs": AllPairs,
    "cubic": Cubic,
    "convolutional": Convolutional,
    "deep": Deep,
    "fifth step takes three times as much": FifthStep,
    "validation takes four times as much": LargeValidation,
    "large optimizer state": FixedState,
}


@dataclass(frozen=True)
class Watched:
    """One search and the training after it.

    Attributes:
        kind: The model.
        objective: What was searched.
        room_mib: What the process may allocate in addition to what it has at the start.
        memory_share: Share of the room that the search may use.
        size: What was found; ``None`` if nothing.
        decided_by: What decided it.
        search_peak: The largest memory during the search, as a share of the room.
        training_peak: The same for the training and its validation.
        trials: How many sizes were run.
        error: What ended the search, if not the watchdog.

    """

    kind: str
    objective: str
    room_mib: int
    memory_share: float
    size: int | None
    decided_by: str
    search_peak: float
    training_peak: float
    trials: int
    error: str | None = None

    @property
    def largest(self) -> float:
        """The largest memory of both, as a share of the room."""
        return max(self.search_peak, self.training_peak)

    @property
    def killed(self) -> bool:
        """Whether the process would have been ended."""
        return self.largest > 1


class Watchdog:
    """Records the largest resident memory of this process since it was constructed."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._reset = host._reset_resident_peak  # noqa: SLF001 - the record has to be read before each reset
        gc.collect()
        trim_heap()  # else more would be free than the room
        self._reset()
        self.at_start = status("VmRSS")[0]
        self.largest = 0
        host._reset_resident_peak = self.reset  # type: ignore[assignment]  # noqa: SLF001
        host.host_limits = self.limits

    def reset(self) -> bool:
        self.largest = max(self.largest, status("VmHWM")[0])
        return self._reset()

    def limits(self) -> list[HostLimit]:
        free = self.at_start + self.room - status("VmRSS")[0]
        return [HostLimit(max(0, free), "the control group's memory.max (simulated)", kills=True)]

    def share(self) -> float:
        """The largest memory as a share of the room; the record starts again."""
        self.reset()
        largest, self.largest = self.largest, 0
        return (largest - self.at_start) / self.room


def watch(kind: str, objective: Any, room_mib: int, memory_share: float = 0.9, margin: float = 0.03) -> Watched:
    """Searches and trains in this process, which is not usable for another search."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder, silenced():
        warm_up = KINDS[kind]()
        quiet_trainer(max_steps=1, limit_val_batches=1, default_root_dir=folder).fit(warm_up)
        del warm_up
        dog = Watchdog(room_mib * MIB)
        begun: list[float] = []
        limits = {**LARGEST["limits"], "memory_share": memory_share}
        scaler = BatchSizeScaler(objective=objective, min_per_class=0, limits=limits, margin=margin, max_val=10**6)
        started = _Started(lambda: begun.append(dog.share()))
        error = None
        try:
            quiet_trainer(
                max_steps=STEPS_AFTER,
                val_check_interval=4,
                limit_val_batches=1,
                callbacks=[scaler, started],
                default_root_dir=folder,
            ).fit(KINDS[kind]())
        except (RuntimeError, MemoryError, pl.utilities.exceptions.MisconfigurationException) as failure:
            error = f"{type(failure).__name__}: {failure}".splitlines()[0]
        after = dog.share()
    result = scaler.result
    return Watched(
        kind,
        objective,
        room_mib,
        memory_share,
        None if result is None else result.batch_size,
        "" if result is None else result.decided_by,
        begun[0] if begun else after,
        after if begun else math.nan,
        0 if result is None else len(result.trials),
        error,
    )


class _Started(pl.Callback):
    changes_gradients = False  # else it is observed in a step of the rehearsal

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.call()


def in_process(*arguments: Any) -> Watched:
    """:func:`watch` in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()  # type: ignore[no-any-return]
    finally:
        process.join()


def _send(sender: Connection[Any, Any], arguments: Sequence[Any]) -> None:
    sender.send(watch(*arguments))


#: Objective, room in MiB, share of the room that may be used, margin.
SETTINGS = (
    *(("memory", room, 0.9, 0.03) for room in (64, 72, 80, 88, 96, 104, 112, 120)),
    *(("throughput", room, 0.9, 0.03) for room in (64, 96)),
    *(("memory", room, 0.95, 0.0) for room in (80, 96, 112)),
)


def run_all(path: Path = PATH, kinds: Sequence[str] = tuple(KINDS)) -> list[Watched]:
    """Runs every kind of model with every setting, and writes one line for each search."""
    found: list[Watched] = []
    for setting in SETTINGS:
        for kind in kinds:
            found.append(in_process(kind, *setting))
            path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in found))
            print(found[-1], flush=True)
    return found


def load(path: Path = PATH) -> list[Watched]:
    """Reads what :func:`save` wrote."""
    return [Watched(**json.loads(line)) for line in path.read_text().splitlines()]


PAGE = """\
# Batch-size searches where exceeding the memory ends the process

Linux ends a process that exceeds `memory.max` of its control group. That limit is simulated here: it is told to the
search as the limit of a control group, and the kernel's record of the largest resident memory of the process (`VmHWM`)
is compared with it. *Room*: what may be allocated in addition to what is in use before the `fit`. *Ended*: the record
exceeded the room, in the search or in the training of {steps} steps and two validations after it. *Used*: the largest
memory of this training as a share of what the search may use, 90 % of the room by default (`memory_share`); for
`objective="memory"` only, least and median.

{searches} searches, {ended} of them ended. The largest memory of all was {largest:.1%} of the room.

{rows}

All searches are in `batch_size_watchdog.json`; `python -m benchmarks --only batch_watchdog` repeats
them. Rooms: {rooms} MiB. Measured with {versions}, on one CPU thread. The C library has its default settings.
"""


def write(found: Sequence[Watched], path: Path = FOLDER / "batch_size_watchdog.md") -> None:
    """Writes the page of some searches."""
    rows = [["model", "searches", "ended", "used: least / median", "largest memory / room"]]
    for kind in KINDS:
        here = [one for one in found if one.kind == kind]
        if not here:
            continue
        used = [one.training_peak / one.memory_share for one in here if one.objective == "memory"]
        rows.append(
            [
                kind,
                str(len(here)),
                str(sum(one.killed for one in here)),
                f"{min(used):.0%} / {statistics.median(used):.0%}",
                f"{max(one.largest for one in here):.1%}",
            ]
        )
    path.write_text(
        PAGE.format(
            steps=STEPS_AFTER,
            searches=len(found),
            ended=sum(one.killed for one in found),
            largest=max(one.largest for one in found),
            rows=table(rows),
            rooms=", ".join(map(str, sorted({one.room_mib for one in found}))),
            versions=versions(("torch", "pytorch-lightning")),
        )
    )


if __name__ == "__main__":
    write(run_all())
