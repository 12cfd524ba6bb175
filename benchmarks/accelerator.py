"""What the suite costs on an accelerator, each figure a ratio to a peer or to a bare copy in the same run.

Every function takes its sizes as an argument: :data:`FULL` for a card, :data:`TINY` to rehearse the same code on the
CPU. Drivers run one after the other, several rounds, since one process holds the device; a turn of some steps is timed
between two synchronizations and compared with the turn of the floor at the same place of its round.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BatchSizeFinder
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18, resnet50
from torchvision.models.vision_transformer import VisionTransformer

from benchmarks import sam_cost, step_cost
from benchmarks.interleaved import median_ratio
from benchmarks.tasks import cnn, mlp
from benchmarks.trainers import ON_CPU, Where, quiet_trainer
from lightning_hp import SAM, BatchSizeScaler
from lightning_hp.memory import attempt, frozen_gc
from lightning_hp.snapshot import Snapshot

GIB = 2**30


def _vit_small() -> nn.Module:
    return VisionTransformer(224, 16, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536, num_classes=10)


class Tokens(nn.Module):
    """A transformer on sequences of vectors, classified by their mean."""

    def __init__(self, width: int = 256, layers: int = 4) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


@dataclass(frozen=True)
class SearchJob:
    """One search for a batch size.

    Attributes:
        name: Its name in the table.
        net: Builds the network.
        shape: The shape of one sample.
        trainer: Arguments of the Trainer.
        with_sam: Whether SAM acts.
        is_fragmented: Whether the memory is fragmented before.
        is_crowded: Whether another process holds the rest of the memory, and not a limit of this process.
        methods: The finders, ours first.

    """

    name: str
    net: Callable[[], nn.Module]
    shape: tuple[int, ...]
    trainer: Mapping[str, Any] = field(default_factory=dict)
    with_sam: bool = False
    is_fragmented: bool = False
    is_crowded: bool = False
    methods: tuple[str, ...] = ("BatchSizeScaler", "Lightning power")

    def callbacks(self) -> list[pl.Callback]:
        return [SAM(rho=0.05)] if self.with_sam else []


@dataclass(frozen=True)
class Sizes:
    """The sizes of all benchmarks."""

    where: Where
    sam: tuple[sam_cost.Job, ...]
    finder: step_cost.Job
    parameters: int
    searches: tuple[SearchJob, ...]
    memory: int  # bytes that the searches may use
    samples: int


_FULL = Where("gpu", "bf16-mixed", channels_last=True)
_CNN, _IMAGE = partial(resnet18, num_classes=10), (3, 64, 64)

FULL = Sizes(
    where=_FULL,
    sam=(
        sam_cost.Job("ResNet-50, batch 128", partial(resnet50, num_classes=10), (3, 224, 224), 128, 4, 5, 3, _FULL),
        sam_cost.Job("ViT-S/16, batch 128", _vit_small, (3, 224, 224), 128, 4, 5, 3, Where("gpu", "bf16-mixed")),
        sam_cost.Job("802 small tensors, batch 32", sam_cost.Deep, (23,), 32, 10, 4, 3, Where("gpu")),
    ),
    finder=step_cost.Job(
        "ResNet-50, batch 64", partial(resnet50, num_classes=10), (3, 224, 224), 64, 7, 7, 3, _FULL, True
    ),
    parameters=100_000_000,
    searches=(
        SearchJob("CNN", _CNN, _IMAGE, methods=("BatchSizeScaler", "Lightning power", "Lightning binsearch")),
        SearchJob("CNN, bf16-mixed, cuDNN benchmark", _CNN, _IMAGE, {"precision": "bf16-mixed", "benchmark": True}),
        SearchJob("CNN, SAM, fragmented", _CNN, _IMAGE, with_sam=True, is_fragmented=True),
        SearchJob("CNN, accumulation", _CNN, _IMAGE, {"accumulate_grad_batches": 2}),
        SearchJob("transformer", Tokens, (128, 256)),
        SearchJob("CNN, another process on the card", _CNN, _IMAGE, is_crowded=True, methods=("BatchSizeScaler",)),
    ),
    memory=5 * GIB // 2,
    samples=20_000,
)
TINY = Sizes(
    where=ON_CPU,
    sam=(sam_cost.Job("CNN 14x14", partial(cnn, 8, 10), (1, 14, 14), 4, 3, 3, 1, Where("cpu", "bf16-mixed", True)),),
    finder=step_cost.Job("MLP", partial(mlp, 64, 32, 10), (1, 8, 8), 8, 7, 3, 1, ON_CPU, True),
    parameters=100_000,
    searches=(),
    memory=0,
    samples=2000,
)

# ------------------------------------------------------------------------------------------------- the cost of a step

_SAM_DRIVERS = (
    "two passes",
    "hpf.Perturbation",
    "usual published loop",
    "pytorch_optimizer, foreach",
    "Trainer.fit, two passes",
    "Trainer.fit, SAM",
)
_FINDER_DRIVERS = ("Trainer.fit", "LRFinder", "Lightning lr_find")


class _Turns:
    """The seconds of a step, on average over each turn but the first, in which libraries choose their kernels."""

    def __init__(self, steps_a_turn: int, where: Where) -> None:
        self._steps, self._where = steps_a_turn, where
        self._ticks, self._last = 0, 0.0
        self.seconds: list[float] = []

    def tick(self) -> None:
        """To be called at the same place of each step."""
        if self._ticks % self._steps == 0:
            self._where.synchronize()
            now = time.perf_counter()
            if self._ticks > self._steps:
                self.seconds.append((now - self._last) / self._steps)
            self._last = now
        self._ticks += 1


def _run_rounds(
    drivers: Mapping[str, Callable[[Callable[[], None]], None]], steps_a_turn: int, rounds: int, where: Where
) -> dict[str, list[float]]:
    """The turns of each driver over all rounds."""
    found: dict[str, list[float]] = {name: [] for name in drivers}
    for _ in range(rounds):
        for name, driver in drivers.items():
            turns = _Turns(steps_a_turn, where)
            torch.manual_seed(0)
            with _silenced():
                driver(turns.tick)
            found[name] += turns.seconds
            _release(where)
    return found


def sam_steps(job: sam_cost.Job) -> list[dict[str, Any]]:
    """The time of a step of SAM beyond two passes and a step of the optimizer, for each driver that is installed."""
    names = [n for n in _SAM_DRIVERS if not n.startswith("pytorch_optimizer") or find_spec("pytorch_optimizer")]
    drivers = {name: partial(sam_cost.DRIVERS[name], job) for name in names}
    turns = _run_rounds(drivers, job.steps_a_turn, job.rounds, job.where)
    floors = {name: "Trainer.fit, two passes" if name.startswith("Trainer.fit") else "two passes" for name in names}
    return [_step(job.name, name, turns[name], turns[floors[name]]) for name in names]


def finder_steps(job: step_cost.Job) -> list[dict[str, Any]]:
    """The time of a step of a finder for the learning rate, as a ratio to a step of ``fit``."""

    def drive(name: str, tick: Callable[[], None]) -> None:
        step_cost.DRIVERS[name](job, step_cost.Ticking(job.where.form(job.net()), tick))

    drivers = {name: partial(drive, name) for name in _FINDER_DRIVERS}
    turns = _run_rounds(drivers, job.steps_a_turn, job.rounds, job.where)
    return [_step(job.name, name, turns[name], turns["Trainer.fit"]) for name in _FINDER_DRIVERS]


def _step(job: str, driver: str, turns: Sequence[float], floor: Sequence[float]) -> dict[str, Any]:
    ratio, low, high = median_ratio(turns, floor)
    step_ms = 1e3 * statistics.median(turns)
    return {"job": job, "driver": driver, "step_ms": step_ms, "ratio": ratio, "low": low, "high": high}


# --------------------------------------------------------------------------------------------------------- a snapshot


def snapshot_speed(parameters: int, where: Where, repeats: int = 5) -> dict[str, Any]:
    """The time to save weights in host memory and to restore them, and that of bare copies there and back."""
    side = int((parameters / 10) ** 0.5)
    net = nn.Sequential(*(nn.Linear(side, side, bias=False) for _ in range(10))).to(where.device)
    weights = [parameter.detach() for parameter in net.parameters()]
    locked = [torch.empty_like(w, device="cpu", pin_memory=where.device.type != "cpu") for w in weights]

    def copies() -> None:
        for weight, copy in zip(weights, locked, strict=True):
            copy.copy_(weight, non_blocking=True)
        where.synchronize()
        for weight, copy in zip(weights, locked, strict=True):
            weight.copy_(copy, non_blocking=True)

    seconds: dict[str, list[float]] = {"bare": [], "snapshot": []}
    for _ in range(repeats + 1):  # page-locked memory is allocated in the first round
        for name, run in (("bare", copies), ("snapshot", lambda: Snapshot(net).restore())):
            where.synchronize()
            start = time.perf_counter()
            run()
            where.synchronize()
            seconds[name].append(time.perf_counter() - start)
    size = sum(weight.nbytes for weight in weights)
    best = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    return {
        "bytes": size,
        "first_seconds": seconds["snapshot"][0],
        "seconds": best["snapshot"],
        "gb_per_second": 2 * size / best["snapshot"] / 1e9,
        "ratio": best["snapshot"] / best["bare"],
    }


# ----------------------------------------------------------------------------------------- the search for a batch size


class Card(Protocol):
    """What a search needs of a device; a test has one whose allocator is simulated."""

    where: Where

    def small(self, memory: int) -> AbstractContextManager[None]:
        """Within, the process may use this many bytes."""

    def allocated(self) -> int:
        """Bytes that tensors take."""

    def reserved(self) -> int:
        """Bytes that the allocator holds."""

    def ooms(self) -> int:
        """How often the allocator has raised."""


class CudaCard:
    """A CUDA device."""

    where = Where("gpu")

    @contextlib.contextmanager
    def small(self, memory: int) -> Iterator[None]:
        total = torch.cuda.get_device_properties().total_memory
        _release(self.where)
        torch.cuda.set_per_process_memory_fraction(memory / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    def allocated(self) -> int:
        return torch.cuda.memory_allocated()

    def reserved(self) -> int:
        return torch.cuda.memory_reserved()

    def ooms(self) -> int:
        return int(torch.cuda.memory_stats().get("num_ooms", 0))


class CrowdedCard(CudaCard):
    """A CUDA device most of whose memory another process holds."""

    # Holds all but some bytes of what is free, until its input ends.
    _HOLD = """
import sys, torch
held = torch.empty(torch.cuda.mem_get_info()[0] - int(sys.argv[1]), dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
print("ready", flush=True)
sys.stdin.read()
"""

    @contextlib.contextmanager
    def small(self, memory: int) -> Iterator[None]:
        _release(self.where)
        command = [sys.executable, "-c", self._HOLD, str(memory)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                if process.stdout is None or process.stdout.readline() != "ready\n":
                    raise RuntimeError("Expected another process to hold memory of the card, but it has ended.")
                yield
            finally:
                process.kill()


def cuda_card(job: SearchJob) -> Card:
    """The card for a search."""
    return CrowdedCard() if job.is_crowded else CudaCard()


class _Module(pl.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]), batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-4)


class _Data(pl.LightningDataModule):
    """One sample, many times: a search reads sizes, not values."""

    def __init__(self, shape: tuple[int, ...], samples: int, batch_size: int = 16) -> None:
        super().__init__()
        self.batch_size = batch_size
        x = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0)).expand(samples, *shape)
        self.dataset = TensorDataset(x, torch.zeros(samples, dtype=torch.long))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.dataset, batch_size=self.batch_size, drop_last=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.dataset, batch_size=self.batch_size, drop_last=True)


class _Watch(pl.Callback):
    """Reads the memory before the search and after it, counts steps, and ends the training soon."""

    changes_gradients = False

    def __init__(self, card: Card, steps: int) -> None:
        self._card, self._steps = card, steps
        self.before = self.after = (0, 0)
        self.size = 0
        self.seconds = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # First of all callbacks, before the search, whatever the order that callbacks ask for.
        trainer.callbacks = [self, *(c for c in trainer.callbacks if c is not self)]  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.before, self.seconds = self._memory(), time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.seconds
        self.after = self._memory()
        self.size = trainer.datamodule.batch_size  # type: ignore[attr-defined]

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.global_step >= self._steps

    def _memory(self) -> tuple[int, int]:
        gc.collect()
        return self._card.allocated(), self._card.reserved()


_LARGEST: dict[str, Any] = {
    "objective": "memory",
    "margin": 0.01,
    "min_per_class": 0,
    "lr_scaling": None,
    "limits": {"min_steps_per_epoch": 1, "min_training_steps": 1, "memory_share": 1.0},
}
_FINDERS: dict[str, Callable[[], pl.Callback]] = {
    "BatchSizeScaler": partial(BatchSizeScaler, **_LARGEST),
    "Lightning power": partial(BatchSizeFinder, mode="power"),
    "Lightning binsearch": partial(BatchSizeFinder, mode="binsearch"),
}


def _fit(job: SearchJob, card: Card, samples: int, batch_size: int, finder: Sequence[pl.Callback] = ()) -> _Watch:
    """A training of some steps and a validation, after a search if there is a finder."""
    torch.manual_seed(0)
    watch = _Watch(card, steps=4)
    options = {
        "accelerator": card.where.accelerator,
        "devices": 1,
        "max_epochs": 1,
        "limit_val_batches": 1,
        "num_sanity_val_steps": 0,
    }
    with tempfile.TemporaryDirectory() as folder, _silenced():
        trainer = quiet_trainer(
            callbacks=[watch, *finder, *job.callbacks()], default_root_dir=folder, **{**options, **job.trainer}
        )
        trainer.fit(_Module(job.net()), datamodule=_Data(job.shape, samples, batch_size))
    return watch


def _trains(job: SearchJob, card: Card, samples: int, batch_size: int) -> bool:
    """Whether a training at a size does not run out of memory."""
    _release(card.where)
    _, error = attempt(lambda: bool(_fit(job, card, samples, batch_size)), card.where.device)
    return error is None


def largest_that_trains(job: SearchJob, card: Card, samples: int, start: int) -> int:
    """The largest size that trains, to a hundredth, by bisection from a size on; 0 if that one does not."""
    if not _trains(job, card, samples, start):
        return 0
    low, step = start, max(1, start // 20)
    while _trains(job, card, samples, low + step):
        low, step = low + step, 2 * step
    high = low + step
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (middle, high) if _trains(job, card, samples, middle) else (low, middle)
    return low


def batch_searches(job: SearchJob, card: Card, memory: int, samples: int) -> list[dict[str, Any]]:
    """Each finder's size as a share of the largest that trains, its time, and the memory that it leaves."""
    rows: list[dict[str, Any]] = []
    _trains(job, card, samples, 2)  # what libraries allocate for themselves in a first step
    with frozen_gc(), card.small(memory), _fragments(job, card):
        for name in job.methods:
            _release(card.where)
            ooms = card.ooms()
            watch, error = attempt(partial(_fit, job, card, samples, 16, [_FINDERS[name]()]), card.where.device)
            row: dict[str, Any] = {"job": job.name, "method": name, "error": error, "size": 0}
            if watch is not None:
                row |= {
                    "size": watch.size,
                    "seconds": watch.seconds,
                    "ooms": card.ooms() - ooms,
                    "allocated_more": watch.after[0] - watch.before[0],
                    "reserved_more": watch.after[1] - watch.before[1],
                }
            rows.append(row)
        largest = largest_that_trains(job, card, samples, rows[0]["size"] or 2)
    return [{**row, "largest": largest, "share": row["size"] / largest if largest else 0.0} for row in rows]


@contextlib.contextmanager
def _fragments(job: SearchJob, card: Card) -> Iterator[None]:
    """Blocks of many sizes, every second of which is free again."""
    sizes = [(1 + position % 7) << 18 for position in range(64)] if job.is_fragmented else []
    held = [torch.empty(size, device=card.where.device) for size in sizes][::2]
    yield
    held.clear()


# ------------------------------------------------------------------------------------------------------------ together


def environment() -> dict[str, str]:
    """The card, the driver and the versions."""
    has_card = torch.cuda.is_available()
    return {
        "card": torch.cuda.get_device_name() if has_card else "none",
        "driver": _driver() if has_card else "none",
        "cuda": str(torch.version.cuda),
        "torch": str(torch.__version__),
        "pytorch_lightning": pl.__version__,
        "python": platform.python_version(),
    }


def run(sizes: Sizes = FULL) -> dict[str, Any]:
    """All benchmarks; the result is plain, for JSON."""
    return {
        "environment": environment(),
        "sam": [row for job in sizes.sam for row in sam_steps(job)],
        "finder": finder_steps(sizes.finder),
        "snapshot": snapshot_speed(sizes.parameters, sizes.where),
        "searches": [
            row for job in sizes.searches for row in batch_searches(job, cuda_card(job), sizes.memory, sizes.samples)
        ],
    }


def _driver() -> str:
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:  # noqa: BLE001 - the figures do not need it
        return "not known"


def _release(where: Where) -> None:
    gc.collect()
    if where.device.type != "cpu":
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
