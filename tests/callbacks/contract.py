"""The contract that every callback of the suite keeps, as tables: which callbacks, in which trainings.

A callback joins by adding a `Member`. `idle` builds it so that it acts but applies nothing: a run with it must equal a
run without it. `applied` tells which learning rate it set, and `applied_batch_size` which batch size: a run that was
given these by hand must equal it. What it `refuses` it has to refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader, WeightedRandomSampler

from lightning_hp import (
    SAM,
    BackboneFreezing,
    BatchSizeScaler,
    Classifier,
    GradientNoiseScale,
    HParamsLogger,
    LossLandscape,
    LRFinder,
    PruningCallback,
)
from lightning_hp.rehearsal import Rehearsal
from tests.devices import torch_device
from tests.training import BATCH_SIZE, NUM_CLASSES, NUM_FEATURES, NUM_SAMPLES, Net, Samples, Stream


class Rehearse(pl.Callback):
    """The bare rehearsal: some steps from the start, twice, with the user's own learning rate."""

    def __init__(self, num_steps: int = 9) -> None:
        self.num_steps = num_steps
        self.losses: list[float] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with Rehearsal(trainer, pl_module) as rehearsal:
            for _ in range(2):
                self.losses += rehearsal.read([rehearsal.step() for _ in range(self.num_steps)])
                rehearsal.rewind()


@dataclass(frozen=True)
class Member:
    """A callback under contract."""

    name: str
    idle: Callable[[], pl.Callback]
    active: Callable[[], pl.Callback] | None = None
    applied: Callable[[Any], dict[str, Any]] | None = None
    applied_batch_size: Callable[[Any], int] = lambda callback: BATCH_SIZE
    refuses: frozenset[str] = frozenset()
    #: The rows on the CPU, besides those that are for this member; ``None``: all, as `-m exhaustive` has.
    rows: frozenset[str] | None = None
    #: The same for ``active``. The bare rehearsal is in all rows, so that each member has those in which it differs.
    active_rows: frozenset[str] | None = None


def _finder(**kwargs: Any) -> LRFinder:
    return LRFinder(**{"min_lr": 1e-4, "max_lr": 10.0, "num_training_steps": 70, "num_repeats": 1, **kwargs})


def _scaler(**kwargs: Any) -> BatchSizeScaler:
    """Eight of each of three classes: a batch of 24, on data so small that an epoch has few steps."""
    few = {"limits": {"min_steps_per_epoch": 1, "min_training_steps": 1}, "class_options": {"num_classes": 3}}
    return BatchSizeScaler(**{"min_per_class": 8, "max_val": 24, **few, **kwargs})


def _loss_of_batch(module: Any, batch: Any) -> torch.Tensor:
    """The mean of the outputs, for batches of every form."""
    batch = batch["a"] if isinstance(batch, dict) else batch
    return module(batch[0]).square().mean()


def _pruning() -> PruningCallback:
    """Reports to a study in memory."""
    optuna = pytest.importorskip("optuna")
    trial = optuna.create_study(pruner=optuna.pruners.NopPruner()).ask()
    return PruningCallback(trial, "val_loss", raises=False)


#: Of each kind of state one row.
FEW_ROWS = frozenset(
    {
        "dropout", "batch_norm", "manual", "accumulation", "fp16_scaler", "overfit_batches", "iterable",
        "persistent_workers", "sam", "classifier", "backbone_freezing", "reload_every_epoch",
    }
)  # fmt: skip
#: They differ in what the batches are and how they are drawn.
DATA_ROWS = FEW_ROWS | {
    "shuffle", "generator", "weighted_sampler", "sampler_with_state", "augmentation", "short_loader", "drop_last",
    "limit_batches", "stateful_loader", "torchdata_loader", "torchdata_workers", "workers", "combined_loader",
    "dict_of_loaders", "own_loaders",
}  # fmt: skip
#: They differ in what a step does with its batch.
STEP_ROWS = FEW_ROWS | {
    "plain", "adamw", "groups", "one_cycle", "cosine", "clip_norm", "clip_value", "bf16_mixed",
    "fp16_scaler_accumulation", "fp64", "hooks_before_the_step", "accumulation_scheduler", "sam_accumulation_fp16",
    "freezing",
}  # fmt: skip
BATCHES_OF_EVERY_FORM = frozenset({"combined_loader", "dict_of_loaders", "stateful_loader", "augmentation"})

MEMBERS = [
    Member("rehearsal", Rehearse),
    Member(
        "lr_finder",
        idle=lambda: _finder(update_attr=False, suggestion="trainings", num_training_steps=30, budget=90),
        active=lambda: _finder(num_repeats=2, suggestion="fall"),
        applied=lambda callback: {"lr": callback.optimal_lr},
        active_rows=STEP_ROWS,
    ),
    Member(
        "batch_size_scaler",
        idle=lambda: _scaler(update_attr=False),
        active=_scaler,
        applied=lambda callback: {"lr": callback.result.lr_scaled},
        applied_batch_size=lambda callback: callback.optimal_batch_size,
        refuses=frozenset({"stateful_loader"}),
        rows=STEP_ROWS,
        active_rows=DATA_ROWS,
    ),
    Member("pruning_that_ends_nothing", idle=_pruning, rows=FEW_ROWS),
    Member(
        "sam_of_radius_0",
        idle=lambda: SAM(rho=0.0),
        refuses=frozenset({"sam", "sam_accumulation_fp16"}),  # there is one already
        rows=STEP_ROWS | BATCHES_OF_EVERY_FORM,
    ),
    Member(
        "gradient_noise_scale",
        idle=lambda: GradientNoiseScale(milestones=(0, 1), num_training_steps=8, num_micro_batches=2),
        refuses=frozenset({"manual"}),
        rows=FEW_ROWS,
    ),
    Member("hparams_logger", idle=lambda: HParamsLogger({"seed": 5}, ["train_loss"]), rows=FEW_ROWS),
    Member(
        "loss_landscape",
        idle=lambda: LossLandscape(1, resolution=3, num_samples=20, radii=[0.1]),
        refuses=frozenset({"manual"}),  # its step changes the weights
        rows=FEW_ROWS | BATCHES_OF_EVERY_FORM | {"bf16_mixed", "fp64", "own_loaders", "sam_accumulation_fp16"},
    ),
    Member(
        "loss_landscape_of_the_path",
        idle=lambda: LossLandscape(
            directions="trajectory", resolution=3, num_samples=20, batch_norm="batch", loss=_loss_of_batch, radii=[]
        ),
        rows=FEW_ROWS,
    ),
    Member(
        "backbone_freezing_of_0_epochs",
        idle=lambda: BackboneFreezing(unfreeze_at_epoch=0, backbone="body"),
        refuses=frozenset({"classifier"}),  # has no part of that name
        rows=STEP_ROWS,
    ),
]


@dataclass(frozen=True)
class Training:
    """One row: how the user trains."""

    name: str
    module: dict[str, Any] = field(default_factory=dict)
    loader: Callable[[], Any] = lambda: loader()
    trainer: Callable[[], dict[str, Any]] = dict
    module_class: Callable[..., pl.LightningModule] = Net
    callbacks: Callable[[], list[pl.Callback]] = list
    has_grad_scaler: bool = False
    is_for_accelerators: bool = False  # on the CPU it is only rehearsed, with -m exhaustive
    members: frozenset[str] | None = None  # those that it is for; ``None``: all

    def options(self, device: str) -> dict[str, Any]:
        """The arguments of the Trainer on a device."""
        precision = mixed_fp16(device) if self.has_grad_scaler else {}
        return {"accelerator": device, **precision, **self.trainer()}


_size = [BATCH_SIZE]


@contextmanager
def batch_size_by_hand(batch_size: int) -> Iterator[None]:
    """The loaders of the table have another batch size."""
    _size[0] = batch_size
    try:
        yield
    finally:
        _size[0] = BATCH_SIZE


def loader(loader_class: type[DataLoader] = DataLoader, **kwargs: Any) -> DataLoader:
    dataset = kwargs.pop("dataset", None) or Samples()
    return loader_class(dataset, batch_size=_size[0], **kwargs)


def torchdata_loader(**kwargs: Any) -> DataLoader:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    return loader(torchdata.StatefulDataLoader, **kwargs)


def pinned_loader(**kwargs: Any) -> DataLoader:
    """In page-locked memory where there is an accelerator, from which Lightning copies without waiting."""
    return loader(pin_memory=torch.accelerator.is_available(), **kwargs)


def mixed_fp16(device: str = "cpu") -> dict[str, Any]:
    """Mixed precision with a grad scaler whose scale is too large at first, and grows soon."""
    kind = torch_device(device).type
    scaler = torch.amp.GradScaler(kind, init_scale=2.0**18, growth_interval=3)
    return {"plugins": [MixedPrecision("16-mixed", kind, scaler=scaler)]}


class InPlaceSampler(torch.utils.data.Sampler):
    """Shuffles a list that it keeps: its order is state."""

    def __init__(self) -> None:
        self.order = list(range(NUM_SAMPLES))
        self.generator = torch.Generator().manual_seed(2)

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __iter__(self) -> Any:
        self.order.reverse()
        swap = int(torch.randint(NUM_SAMPLES, (), generator=self.generator))
        self.order[0], self.order[swap] = self.order[swap], self.order[0]
        return iter(self.order)


class StatefulLoader:
    """Not a DataLoader: an iterable with `state_dict`, whose stream is a generator that cannot be set back."""

    def __init__(self) -> None:
        self.dataset = Samples()
        self.load_state_dict({"position": 0})

    def __iter__(self) -> StatefulLoader:
        return self

    def __next__(self) -> Any:
        batch = next(self.stream)
        self.position += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]
        self.stream = (self._batch(i) for i in range(self.position, 10_000))

    def _batch(self, position: int) -> Any:
        rows = [self.dataset[(position * BATCH_SIZE + i) % NUM_SAMPLES] for i in range(BATCH_SIZE)]
        return torch.utils.data.default_collate(rows)


class Collecting(Net):
    """Appends to a list that a hook of the epoch creates: training_step needs the hooks before it."""

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.outputs: list[torch.Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.outputs.append(loss.detach())
        return loss


class Ready(Classifier):
    """Ours, on samples that carry an index."""

    def __init__(self, **kwargs: Any) -> None:
        body = torch.nn.Sequential(torch.nn.Linear(NUM_FEATURES, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU())
        super().__init__(body, NUM_CLASSES, head_options={"use_dropout": True}, **kwargs)
        self.seen: list[list[int]] = []

    def split_batch(self, batch: Any, has_labels: bool = True) -> tuple[Any, Any]:
        features, labels, indices = batch
        if self.training:
            self.seen.append(indices.tolist())
        return features, labels


class FreezeBody(pl.Callback):
    """Shapes the training before its first step, and says so."""

    changes_gradients = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.body.requires_grad_(False)


class OwnLoaders(Net):
    """The module brings its loader, and builds it with dice."""

    def train_dataloader(self) -> DataLoader:
        order = torch.randperm(NUM_SAMPLES).tolist()
        return loader(sampler=order)


class ChannelsLast(Net):
    """A convolution on images whose channels come last in memory."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.body = torch.nn.Sequential(torch.nn.Unflatten(1, (2, 2, 2)), torch.nn.Conv2d(2, 16, 2), self.body[1])
        self.body[2] = torch.nn.BatchNorm2d(16)
        self.head = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten(), self.head)
        self.to(memory_format=torch.channels_last)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        images = self.body[0](features).contiguous(memory_format=torch.channels_last)
        return self.head(self.body[1:](images))


class Compiled(Net):
    """The network is compiled when the training is set up: with code of its own on an accelerator."""

    def setup(self, stage: str) -> None:
        torch._dynamo.reset()  # what earlier trainings compiled decides what is compiled here
        backend = "aot_eager" if self.trainer.strategy.root_device.type == "cpu" else "inductor"
        self.body.compile(backend=backend, dynamic=True)


TRAININGS = [
    Training("plain"),
    Training("shuffle", loader=lambda: loader(shuffle=True)),
    Training("generator", loader=lambda: loader(shuffle=True, generator=torch.Generator().manual_seed(4))),
    Training("weighted_sampler", loader=lambda: loader(sampler=WeightedRandomSampler([1.0] * 90 + [9.0] * 6, 64))),
    Training("sampler_with_state", loader=lambda: loader(sampler=InPlaceSampler())),
    Training("augmentation", loader=lambda: loader(shuffle=True, dataset=Samples(augment=True))),
    Training("dropout", {"dropout": 0.3}, lambda: loader(shuffle=True)),
    Training("batch_norm", {"batch_norm": True}, lambda: loader(shuffle=True)),
    Training("adamw", {"optimizer": "adamw", "batch_norm": True, "dropout": 0.05}, lambda: loader(shuffle=True)),
    Training("groups", {"groups": True}, lambda: loader(shuffle=True)),
    Training("one_cycle", {"scheduler": "one_cycle"}, lambda: loader(shuffle=True)),
    Training("cosine", {"scheduler": "cosine"}, lambda: loader(shuffle=True)),
    Training("manual", {"manual": True, "scheduler": "cosine"}, lambda: loader(shuffle=True)),
    Training("accumulation", {"dropout": 0.3}, lambda: loader(shuffle=True), lambda: {"accumulate_grad_batches": 4}),
    Training("clip_norm", {}, lambda: loader(shuffle=True), lambda: {"gradient_clip_val": 0.1}),
    Training(
        "clip_value", {}, lambda: loader(), lambda: {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}
    ),
    Training("bf16_mixed", {"dropout": 0.3}, lambda: loader(shuffle=True), lambda: {"precision": "bf16-mixed"}),
    Training("fp16_scaler", {"dropout": 0.3}, lambda: loader(shuffle=True), has_grad_scaler=True),
    Training("fp16_scaler_accumulation", {}, loader, lambda: {"accumulate_grad_batches": 2}, has_grad_scaler=True),
    Training("fp64", {}, lambda: loader(shuffle=True), lambda: {"precision": "64-true"}),
    Training("short_loader", {}, lambda: loader(shuffle=True, dataset=Samples(40))),
    Training("drop_last", {}, lambda: loader(shuffle=True, drop_last=True, dataset=Samples(40))),
    Training("limit_batches", {}, lambda: loader(shuffle=True), lambda: {"limit_train_batches": 3}),
    Training("overfit_batches", {}, lambda: loader(), lambda: {"overfit_batches": 2}),
    Training("iterable", {}, lambda: loader(dataset=Stream())),
    Training("stateful_loader", {}, StatefulLoader, lambda: {"limit_train_batches": 5}),
    Training("torchdata_loader", {}, lambda: torchdata_loader(dataset=Samples(augment=True), shuffle=True)),
    Training("torchdata_workers", {}, lambda: torchdata_loader(shuffle=True, num_workers=1)),
    Training("workers", {}, lambda: loader(shuffle=True, num_workers=2)),
    Training("persistent_workers", {}, lambda: loader(shuffle=True, num_workers=1, persistent_workers=True)),
    Training(
        "combined_loader",
        {},
        lambda: CombinedLoader({"a": loader(shuffle=True), "b": loader(dataset=Samples(40))}, "max_size_cycle"),
    ),
    Training("dict_of_loaders", {}, lambda: {"a": loader(shuffle=True), "b": loader(dataset=Samples(40))}),
    Training("own_loaders", loader=lambda: None, module_class=OwnLoaders),
    Training("hooks_before_the_step", module_class=Collecting),
    Training(
        "accumulation_scheduler",
        loader=lambda: loader(shuffle=True),
        callbacks=lambda: [GradientAccumulationScheduler({0: 2, 1: 3})],
    ),
    Training(
        "sam",
        {"dropout": 0.3, "batch_norm": True, "groups": True},
        lambda: loader(shuffle=True),
        callbacks=lambda: [SAM(rho=0.1)],
    ),
    Training(
        "sam_accumulation_fp16",
        {"batch_norm": True},
        lambda: loader(shuffle=True, dataset=Samples(augment=True)),
        lambda: {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5},
        callbacks=lambda: [SAM(rho=1.0, adaptive=True, interval=2)],
        has_grad_scaler=True,
    ),
    Training(
        "classifier",
        {"scheduler": "OneCycleLR", "lr_ratios": {"backbone": 0.1}, "lr": 0.05},
        lambda: loader(shuffle=True),
        module_class=Ready,
    ),
    Training("freezing", loader=lambda: loader(shuffle=True), callbacks=lambda: [FreezeBody()]),
    Training(
        "backbone_freezing",
        {"batch_norm": True, "dropout": 0.3, "groups": True},
        loader=lambda: loader(shuffle=True),
        callbacks=lambda: [BackboneFreezing(unfreeze_at_epoch=1, backbone="body")],
    ),
    Training(
        "reload_every_epoch",
        loader=lambda: None,
        trainer=lambda: {"reload_dataloaders_every_n_epochs": 1},
        module_class=OwnLoaders,
    ),
    Training("pinned", loader=lambda: pinned_loader(shuffle=True), is_for_accelerators=True),
    Training(
        "pinned_workers",
        loader=lambda: pinned_loader(shuffle=True, num_workers=2, persistent_workers=True),
        is_for_accelerators=True,
    ),
    Training(
        "channels_last",
        {"batch_norm": True},
        lambda: loader(shuffle=True),
        lambda: {"precision": "bf16-mixed"},
        module_class=ChannelsLast,
        is_for_accelerators=True,
    ),
    Training(
        "compiled",
        {"batch_norm": True},
        lambda: loader(shuffle=True),
        module_class=Compiled,
        is_for_accelerators=True,
        members=frozenset({"rehearsal", "lr_finder", "batch_size_scaler", "sam_of_radius_0"}),
    ),
]
