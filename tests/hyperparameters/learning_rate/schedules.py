"""Small modules with every scheduler of torch, with and without a home for the learning rate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.optim import Optimizer
from torch.optim import lr_scheduler as s
from torch.optim.swa_utils import SWALR
from torch.utils.data import DataLoader

RATIOS = (1.0, 0.1, 3.0)
NUM_STEPS = 40


def warm_up(step: int) -> float:
    return min(1.0, step / 10)


def warm_up_and_cosine(step: int) -> float:
    return warm_up(step) * 0.5 * (1 + math.cos(math.pi * step / 60))


def sequence_in_a_sequence(optimizer: Optimizer) -> Any:
    """torch warns that its own first step came too early."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inner = s.SequentialLR(optimizer, [s.ConstantLR(optimizer, 0.1, 99), s.LinearLR(optimizer, 0.1, 1.0, 8)], [5])
        return s.SequentialLR(optimizer, [inner, s.ExponentialLR(optimizer, 0.9)], [20])


#: By the name of the class in torch: creates a scheduler from an optimizer and the rates of its groups.
CLASSES: dict[str, Callable[[Optimizer, list[Any]], Any]] = {
    "LambdaLR": lambda o, _: s.LambdaLR(o, warm_up_and_cosine),
    "MultiplicativeLR": lambda o, _: s.MultiplicativeLR(o, lambda step: 0.9 if step % 3 else 1.0),
    "StepLR": lambda o, _: s.StepLR(o, 7, 0.5),
    "MultiStepLR": lambda o, _: s.MultiStepLR(o, [5, 20, 20], 0.3),
    "ConstantLR": lambda o, _: s.ConstantLR(o, 0.5, 17),
    "LinearLR": lambda o, _: s.LinearLR(o, 0.1, 0.8, 20),
    "ExponentialLR": lambda o, _: s.ExponentialLR(o, 0.97),
    "PolynomialLR": lambda o, _: s.PolynomialLR(o, 30, 2.0),
    "CosineAnnealingLR": lambda o, _: s.CosineAnnealingLR(o, 15, eta_min=1e-3),
    "CosineAnnealingWarmRestarts": lambda o, _: s.CosineAnnealingWarmRestarts(o, 8, 2, eta_min=1e-3),
    "CyclicLR": lambda o, rates: s.CyclicLR(o, [r / 8 for r in rates], list(rates), 6, mode="triangular2"),
    "OneCycleLR": lambda o, rates: s.OneCycleLR(o, list(rates), NUM_STEPS + 1),
    "ReduceLROnPlateau": lambda o, _: s.ReduceLROnPlateau(o, factor=0.5, patience=3, min_lr=4e-4),
    "SequentialLR": lambda o, _: s.SequentialLR(
        o, [s.LinearLR(o, 0.2, 1.0, 5), s.CosineAnnealingLR(o, 20, eta_min=1e-3)], [5]
    ),
    "ChainedScheduler": lambda o, _: s.ChainedScheduler([s.LinearLR(o, 0.2, 1.0, 5), s.ExponentialLR(o, 0.95)]),
    "SWALR": lambda o, _: SWALR(o, swa_lr=0.02, anneal_epochs=20),
}

#: Common compositions and arguments.
COMPOSED: dict[str, Callable[[Optimizer, list[Any]], Any]] = {
    "none": lambda o, _: None,
    "warm-up from zero": lambda o, _: s.LambdaLR(o, warm_up),
    "a lambda per group": lambda o, rates: s.LambdaLR(o, [warm_up, *[warm_up_and_cosine] * (len(rates) - 1)]),
    "one cycle, three phases, linear": lambda o, rates: s.OneCycleLR(
        o, list(rates), NUM_STEPS + 1, three_phase=True, anneal_strategy="linear", cycle_momentum=False
    ),
    "one peak for all groups": lambda o, rates: s.OneCycleLR(o, rates[0], NUM_STEPS + 1),
    "cyclic, shrinking": lambda o, rates: s.CyclicLR(
        o, [r / 2 for r in rates], list(rates), 4, mode="exp_range", gamma=0.98
    ),
    "a sequence of three": lambda o, _: s.SequentialLR(
        o,
        [s.ConstantLR(o, 0.1, 4), s.CosineAnnealingWarmRestarts(o, 6, eta_min=1e-3), s.ExponentialLR(o, 0.9)],
        [4, 22],
    ),
    "a sequence in a chain": lambda o, _: s.ChainedScheduler(
        [
            s.SequentialLR(o, [s.LinearLR(o, 0.1, 1.0, 8), s.StepLR(o, 9, 0.5)], [8]),
            s.MultiplicativeLR(o, lambda _: 0.99),
        ]
    ),
    "a sequence in a sequence": lambda o, _: sequence_in_a_sequence(o),
    "two at the top": lambda o, _: [s.LinearLR(o, 0.1, 1.0, 8), s.ReduceLROnPlateau(o, factor=0.5, patience=5)],
}

SCHEDULES = {**CLASSES, **COMPOSED}


class Module(pl.LightningModule):
    """Its rate is ``rate``, which has no home, unless a subclass defines one."""

    def __init__(
        self, rate: Any, schedule: str = "none", num_groups: int = 1, optimizer: str = "sgd", automatic: bool = False
    ) -> None:
        super().__init__()
        self.automatic_optimization = automatic
        self.rate = rate
        self.schedule = schedule
        self.layers = nn.ModuleList(nn.Linear(2, 1) for _ in range(num_groups))
        self.optimizer_name = optimizer

    def the_rate(self) -> Any:
        return self.rate

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = sum(layer(batch).square().mean() for layer in self.layers)
        self.log("loss", 1.0)
        return loss

    def configure_optimizers(self) -> Any:
        rates = [self.the_rate() * ratio for ratio in RATIOS[: len(self.layers)]]
        groups = [{"params": layer.parameters(), "lr": rate} for layer, rate in zip(self.layers, rates, strict=True)]
        if self.optimizer_name == "sgd":
            optimizer: Optimizer = torch.optim.SGD(groups, lr=self.the_rate(), momentum=0.9)
        else:
            optimizer = torch.optim.AdamW(groups, lr=self.the_rate())
        schedule = SCHEDULES[self.schedule](optimizer, [float(rate) for rate in rates])
        schedules = schedule if isinstance(schedule, list) else [] if schedule is None else [schedule]
        settings = {"interval": "step", "monitor": "loss"} if self.automatic_optimization else {}
        return [optimizer], [{"scheduler": one, **settings} for one in schedules]


class ModuleWithHome(Module):
    """Its rate is ``lr``."""

    def __init__(self, lr: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(None, *args, **kwargs)
        self.lr = lr

    def the_rate(self) -> Any:
        return self.lr


def attach(module: Any, midway: bool = False, package: Any = pl) -> Any:
    """A Trainer in the state of ``on_fit_start``, or of a later hook, without running a training."""
    trainer = package.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.strategy.connect(module)
    module.trainer = trainer
    trainer.strategy.setup_optimizers(trainer)
    module._current_fx_name = "on_train_epoch_start" if midway else "on_fit_start"
    return trainer


def run(trainer: Any, num_steps: int) -> list[list[tuple[Any, ...]]]:
    """Steps optimizers and schedulers; returns the rate and momentum of every group in each step."""
    used = []
    for _ in range(num_steps):
        used.append(look(trainer))
        for optimizer in trainer.strategy.optimizers:
            optimizer.step()
        for config in trainer.strategy.lr_scheduler_configs:
            plateau = isinstance(config.scheduler, s.ReduceLROnPlateau)
            config.scheduler.step(1.0) if plateau else config.scheduler.step()
    return used


def look(trainer: Any) -> list[tuple[Any, ...]]:
    return [
        (float(group["lr"]), group.get("momentum"), group.get("betas"))
        for optimizer in trainer.strategy.optimizers
        for group in optimizer.param_groups
    ]


def by_hand(module: Module, num_steps: int = NUM_STEPS) -> list[list[tuple[Any, ...]]]:
    """The same for a module that was created with the new rate."""
    return run(attach(module), num_steps)


def assert_close(left: Sequence[Any], right: Sequence[Any]) -> None:
    """Checks that all rates are equal up to the rounding of a factor."""
    assert len(left) == len(right)
    for step, (ours, theirs) in enumerate(zip(left, right, strict=True)):
        for (rate, *rest), (expected, *others) in zip(ours, theirs, strict=True):
            assert math.isclose(rate, expected, rel_tol=1e-9), f"step {step}: {rate} instead of {expected}"
            assert rest == others


class At(Callback):
    """Calls a function once, at ``on_fit_start`` or before an epoch, and records the rates of each step."""

    def __init__(self, act: Callable[[Any, Any], None] | None = None, epoch: int | None = None) -> None:
        self.act = act
        self.epoch = epoch
        self.used: list[list[tuple[Any, ...]]] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if self.act is not None and self.epoch is None:
            self.act(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self.act is not None and trainer.current_epoch == self.epoch:
            self.act(trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.used.append(look(trainer))


def fit(module: Any, callback: At, package: Any = pl, epochs: int = 2, **kwargs: Any) -> Any:
    """Runs a training of a few steps."""
    trainer = package.Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, callbacks=[callback], enable_progress_bar=False,
        enable_model_summary=False, **{"logger": False, "enable_checkpointing": False, **kwargs},
    )  # fmt: skip
    trainer.fit(module, loader())
    return trainer


def loader() -> DataLoader:
    return DataLoader(torch.randn(20, 2, generator=torch.Generator().manual_seed(5)))
