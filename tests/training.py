"""A small training whose every observable is recorded: what the contract suite compares between two runs."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_hp.trainer.stand_ins import MutedCallback

NUM_SAMPLES, NUM_FEATURES, NUM_CLASSES, BATCH_SIZE = 96, 8, 3, 16


def make_samples(num_samples: int = NUM_SAMPLES) -> tuple[Tensor, Tensor]:
    """Samples of a linear rule with noise: learnable, never perfectly."""
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(num_samples, NUM_FEATURES, generator=generator)
    rule = torch.randn(NUM_FEATURES, NUM_CLASSES, generator=generator)
    labels = (features @ rule + 0.3 * torch.randn(num_samples, NUM_CLASSES, generator=generator)).argmax(1)
    return features, labels


class Samples(Dataset):
    """Map-style; a sample is (features, label, index). ``augment`` draws noise from a stream of the dataset's own."""

    def __init__(self, num_samples: int = NUM_SAMPLES, augment: bool = False) -> None:
        self.features, self.labels = make_samples(num_samples)
        self.augment = augment
        self.numpy_rng = np.random.default_rng(3)
        self.python_rng = random.Random(3)
        self.served = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        features = self.features[index]
        if self.augment:
            self.served += 1
            features = features + float(self.numpy_rng.normal()) * 0.1 + self.python_rng.random() * 0.1
        return features, self.labels[index], index


class Stream(IterableDataset):
    """Iterable-style, without a length, started again by each ``__iter__``."""

    def __init__(self, num_samples: int = NUM_SAMPLES) -> None:
        self.samples = Samples(num_samples)

    def __iter__(self) -> Iterator[Any]:
        return (self.samples[i] for i in range(len(self.samples)))


class MemoryLogger(Logger):
    """Keeps everything that is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.hparams: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.hparams.update(dict(params))


class NetSteps:
    """A classifier that keeps state in every way that users do, and notes each batch that it sees."""

    def __init__(
        self,
        lr: float = 0.05,
        optimizer: str = "sgd",
        dropout: float = 0.0,
        batch_norm: bool = False,
        scheduler: str = "",
        manual: bool = False,
        groups: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        norm = nn.BatchNorm1d(16) if batch_norm else nn.Identity()
        self.body = nn.Sequential(nn.Linear(NUM_FEATURES, 16), norm, nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(16, NUM_CLASSES)
        self.accuracy = MulticlassAccuracy(NUM_CLASSES)
        self.register_buffer("running_loss", torch.tensor(0.1), persistent=False)
        self.automatic_optimization = not manual
        self.seen: list[list[int]] = []
        self.hook_calls: dict[str, int] = {}
        self.noise = torch.Generator().manual_seed(11)
        self.last_features: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.body(features))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        features, labels, indices = _first(batch)
        self.seen.append(indices.tolist())
        features = features.to(self.dtype) + 0.01 * torch.randn(features.shape, generator=self.noise).to(features)
        logits = self(features)
        loss = nn.functional.cross_entropy(logits, labels)
        self.running_loss.mul_(0.9).add_(0.1 * loss.detach())
        self.accuracy(logits, labels)
        self.last_features = features
        self.log("train_loss", loss, on_step=True, on_epoch=True, batch_size=len(labels))
        self.log("train_acc", self.accuracy, on_step=False, on_epoch=True, batch_size=len(labels))
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            if (schedulers := self.lr_schedulers()) is not None:
                schedulers.step()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        features, labels, _ = _first(batch)
        self.log("val_loss", nn.functional.cross_entropy(self(features.to(self.dtype)), labels))

    def on_train_epoch_start(self) -> None:
        self._count("on_train_epoch_start")

    def on_train_start(self) -> None:
        self._count("on_train_start")

    def on_fit_start(self) -> None:
        self._count("on_fit_start")

    def _count(self, hook: str) -> None:
        self.hook_calls[hook] = self.hook_calls.get(hook, 0) + 1

    def configure_optimizers(self) -> Any:
        hparams = self.hparams
        parameters: Any = list(self.parameters())
        if hparams["groups"]:
            parameters = [
                {"params": list(self.body.parameters()), "lr": self.lr * 0.1},
                {"params": list(self.head.parameters())},
            ]
        optimizer = {
            "sgd": lambda: torch.optim.SGD(parameters, lr=self.lr, momentum=0.9),
            "adamw": lambda: torch.optim.AdamW(parameters, lr=self.lr),
        }[hparams["optimizer"]]()
        if not hparams["scheduler"]:
            return optimizer
        scheduler = {
            "one_cycle": lambda: torch.optim.lr_scheduler.OneCycleLR(
                optimizer, max_lr=self.lr, total_steps=self.trainer.estimated_stepping_batches
            ),
            "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20),
        }[hparams["scheduler"]]()
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Net(NetSteps, pl.LightningModule):
    """The module of `pytorch_lightning`."""


def _first(batch: Any) -> Any:
    """The (features, label, index) triple in a batch of one loader, or of a dict of loaders."""
    return _first(next(iter(batch.values()))) if isinstance(batch, dict) else batch


def acting_in(trainer: Any) -> list[str]:
    """The classes of the Trainer's callbacks that act; in a rehearsal others only stand in its list."""
    return [type(callback).__name__ for callback in trainer.callbacks if type(callback) is not MutedCallback]


@dataclass
class Run:
    """What can be observed of a training, from its results to its dice."""

    weights: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimizer: Any
    schedulers: list[Any]
    metrics: list[Any]
    seen: list[list[int]]
    hook_calls: dict[str, int]
    streams: list[Any]
    noise: Tensor
    precision: Any
    global_step: int
    epoch: int
    module: pl.LightningModule = field(repr=False)
    trainer: pl.Trainer = field(repr=False)


def train(
    module: pl.LightningModule,
    callbacks: Iterable[pl.Callback] = (),
    loader: Any = None,
    datamodule: Any = None,
    val_loader: Any = None,
    seed: int = 1,
    ckpt_path: Any = None,
    trainer_class: type[pl.Trainer] = pl.Trainer,
    **trainer_kwargs: Any,
) -> Run:
    """Runs ``fit`` and records it. The default is two epochs on the CPU with validation and a logger in memory.

    On an accelerator all algorithms are deterministic.
    """
    pl.seed_everything(seed)
    logger = MemoryLogger()
    kwargs: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "deterministic": True if trainer_kwargs.get("accelerator", "cpu") != "cpu" else None,
        "max_epochs": 2,
        "logger": logger,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
        **trainer_kwargs,
    }
    trainer = trainer_class(callbacks=list(callbacks), **kwargs)
    if val_loader is None and datamodule is None:
        val_loader = DataLoader(Samples(32), batch_size=BATCH_SIZE)
    try:
        trainer.fit(module, loader, val_loader, datamodule=datamodule, ckpt_path=ckpt_path)
    finally:
        torch.use_deterministic_algorithms(False)  # the Trainer sets it for the whole process
    return record(trainer, module, logger)


def record(trainer: pl.Trainer, module: pl.LightningModule, logger: MemoryLogger) -> Run:
    return Run(
        weights=copy.deepcopy(module.state_dict()),
        buffers={name: buffer.clone() for name, buffer in module.named_buffers()},
        optimizer=copy.deepcopy([optimizer.state_dict() for optimizer in trainer.optimizers]),
        schedulers=copy.deepcopy([_plain(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs]),
        metrics=[(step, {k: v for k, v in values.items() if "/" not in k}) for step, values in logger.metrics],
        seen=copy.deepcopy(getattr(module, "seen", [])),
        hook_calls=dict(getattr(module, "hook_calls", {})),
        streams=[torch.get_rng_state(), random.getstate(), np.random.get_state()[1], *_device_streams()],
        noise=module.noise.get_state() if hasattr(module, "noise") else torch.empty(0),
        precision=copy.deepcopy(trainer.precision_plugin.state_dict()),
        global_step=trainer.global_step,
        epoch=trainer.current_epoch,
        module=module,
        trainer=trainer,
    )


def _device_streams() -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in state.items() if not callable(v)}


def assert_same_training(left: Run, right: Run) -> None:
    """Bit-equal in everything that can be observed, but for metrics with a ``/`` in the name: the callbacks' own."""
    for name in (
        "weights", "buffers", "optimizer", "schedulers", "seen", "hook_calls", "noise", "precision", "streams",
        "global_step", "epoch",
    ):  # fmt: skip
        assert_identical(getattr(left, name), getattr(right, name), name)
    assert_identical(_logged(left), _logged(right), "logged values")


def _logged(run: Run) -> list[Any]:
    return [entry for entry in run.metrics if entry[1]]


def worst_difference(left: Any, right: Any) -> float:
    """The largest difference of two numbers at the same place of two nests or two runs; infinite for NaN in one alone.

    Of runs the weights, the buffers, the optimizer state and the logged values are compared.
    """
    if isinstance(left, Run):
        both = [[run.weights, run.buffers, run.optimizer, _logged(run)] for run in (left, right)]
        return worst_difference(*both)
    if isinstance(left, Tensor):
        left, right = left.detach().cpu().double(), right.detach().cpu().double()
        if not torch.equal(left.isfinite(), right.isfinite()):
            return float("inf")
        return float((left - right).nan_to_num(0.0, 0.0, 0.0).abs().amax()) if left.numel() else 0.0
    if isinstance(left, dict):
        return max((worst_difference(left[key], right[key]) for key in left.keys() & right.keys()), default=0.0)
    if isinstance(left, (list, tuple)):
        return max((worst_difference(a, b) for a, b in zip(left, right, strict=False)), default=0.0)
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return worst_difference(torch.tensor(float(left)), torch.tensor(float(right)))
    return 0.0


def assert_identical(left: Any, right: Any, path: str) -> None:
    """Equality of nests with tensors, without tolerance; a tensor may be on another device, as after a training."""
    if isinstance(left, Tensor):
        left, right = left.cpu(), right.cpu()
        assert torch.equal(torch.nan_to_num(left), torch.nan_to_num(right)), f"{path} differs: {left} {right}"
    elif isinstance(left, np.ndarray):
        assert np.array_equal(left, right), f"{path} differs"
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), f"{path}: {left.keys()} {right.keys()}"
        for key in left:
            assert_identical(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), f"{path}: lengths {len(left)} and {len(right)}"
        for position, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_identical(a, b, f"{path}[{position}]")
    else:
        assert left == right, f"{path}: {left} {right}"
