"""SAM from where the learning rate decays: the step is found by hand, and the run is that of the same share."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.optim import lr_scheduler as schedulers

from lightning_hp import SAM, LRFinder
from lightning_hp.hyperparameters import first_decay
from tests.callbacks.contract import loader
from tests.training import Net, Run, Stream, assert_identical, assert_same_training, train

STEPS = 24  # four epochs of six


def linear_warmup(steps: int) -> Callable[[int], float]:
    return lambda step: min(1.0, (step + 1) / steps)


def stable_then_linear(step: int) -> float:
    return min(1.0, (step + 1) / 4) * min(1.0, (STEPS - step) / 8)


def warmup_then_cosine(optimizer: Any) -> Any:
    warmup = schedulers.LinearLR(optimizer, start_factor=0.1, total_iters=5)
    cosine = schedulers.CosineAnnealingLR(optimizer, T_max=STEPS - 5)
    return schedulers.SequentialLR(optimizer, [warmup, cosine], milestones=[5])


def plateau_between(optimizer: Any) -> Any:
    """Its warm-up ends at 1 + 2e-16 times the rate: rounding is no decay."""
    warmup = schedulers.LinearLR(optimizer, start_factor=0.3, total_iters=7)
    constant = schedulers.ConstantLR(optimizer, factor=1.0, total_iters=1)
    linear = schedulers.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=10)
    return schedulers.SequentialLR(optimizer, [warmup, constant, linear], milestones=[9, 14])


#: A schedule, how often it is stepped, and the first step with a lower rate, by hand.
SCHEDULES: dict[str, tuple[Callable[[Any], Any], str, int]] = {
    "cosine": (lambda o: schedulers.CosineAnnealingLR(o, T_max=STEPS), "step", 1),
    "warm-up and cosine": (warmup_then_cosine, "step", 6),  # 5 is the peak
    "linear": (lambda o: schedulers.LinearLR(o, 1.0, 0.0, total_iters=STEPS), "step", 1),
    "one cycle": (lambda o: schedulers.OneCycleLR(o, max_lr=0.1, total_steps=STEPS, pct_start=0.375), "step", 9),
    "stable and decay": (lambda o: schedulers.LambdaLR(o, stable_then_linear), "step", 17),  # 8/8 is at step 16
    "plateau between": (plateau_between, "step", 15),
    "milestones": (lambda o: schedulers.MultiStepLR(o, [11, 20]), "step", 11),
    "milestones in epochs": (lambda o: schedulers.MultiStepLR(o, [2, 3]), "epoch", 12),
    "two groups": (lambda o: schedulers.LambdaLR(o, [linear_warmup(5), lambda step: 0.5 ** (step > 6)]), "step", 7),
}  # fmt: skip


class Scheduled(Net):
    """A net whose schedule is given; each step has a seed of its own, so that a resumed run can be compared."""

    build: Callable[[Any], Any] | None = None
    interval = "step"

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(100 + self.global_step)
        self.noise.manual_seed(self.global_step)

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        if self.build is None:
            return optimizer
        return [optimizer], [{"scheduler": self.build(optimizer), "interval": self.interval, "monitor": "train_loss"}]


def fit(
    sam: SAM, schedule: Callable[[Any], Any] | None, interval: str = "step", groups: bool = False, **kwargs: Any
) -> Run:
    torch.manual_seed(5)
    module = Scheduled(batch_norm=True, dropout=0.3, groups=groups)
    module.build, module.interval = schedule, interval
    kwargs = {"max_epochs": 4, "loader": loader(), "callbacks": [], **kwargs}
    return train(module, [sam, *kwargs.pop("callbacks")], kwargs.pop("loader"), **kwargs)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_run_is_that_of_the_share_bit_for_bit(name: str) -> None:
    schedule, interval, step = SCHEDULES[name]
    groups = name == "two groups"
    found = fit(SAM(rho=0.2, start="decay"), schedule, interval, groups)
    assert_same_training(found, fit(SAM(rho=0.2, start=(step - 0.5) / STEPS), schedule, interval, groups))
    other = fit(SAM(rho=0.2, start=(step + 0.5) / STEPS), schedule, interval, groups)
    assert any(not torch.equal(found.weights[key], other.weights[key]) for key in found.weights), "one step later"


def test_accumulated_batches_are_one_step() -> None:
    halves = lambda optimizer: schedulers.MultiStepLR(optimizer, [5])  # noqa: E731
    found = fit(SAM(rho=0.2, start="decay"), halves, accumulate_grad_batches=2)
    share = fit(SAM(rho=0.2, start=4.5 / 12), halves, accumulate_grad_batches=2)
    assert_same_training(found, share)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize(("half", "name"), [(1, "stable and decay"), (3, "stable and decay"), (2, "milestones")])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, half: int, name: str) -> None:
    schedule, interval, step = SCHEDULES[name]

    def saver() -> dict[str, Any]:
        checkpoint = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_epochs=1)
        return {"callbacks": [checkpoint], "enable_checkpointing": True}

    whole = fit(SAM(rho=0.2, start="decay"), schedule, interval, **saver())
    file = tmp_path / f"step={6 * half}.ckpt"
    resumed = fit(SAM(rho=0.2, start="decay"), schedule, interval, ckpt_path=file, **saver())
    for what in ("weights", "optimizer", "schedulers", "global_step"):
        assert_identical(getattr(resumed, what), getattr(whole, what), what)
    share = fit(SAM(rho=0.2, start=(step - 0.5) / STEPS), schedule, interval)
    assert_identical(resumed.weights, share.weights, "the share, without a break")


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_a_second_fit_starts_the_schedule_again() -> None:
    """Its schedule falls in its step 11, which is step 35 of all."""

    def twice(start: Any) -> Any:
        torch.manual_seed(5)
        module, sam = Scheduled(), SAM(rho=0.2, start="decay")
        module.build = SCHEDULES["milestones"][0]
        options: Any = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
        quiet: Any = {"enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(max_epochs=4, callbacks=[sam], **options, **quiet)
        trainer.fit(module, loader())
        trainer.callbacks = [SAM(rho=0.2, start=start)]  # type: ignore[attr-defined]
        trainer.fit_loop.max_epochs = 8
        trainer.fit(module, loader())
        return module.state_dict()

    assert_identical(twice("decay"), twice(34.5 / 48), "weights")


@pytest.mark.parametrize(
    ("schedule", "interval", "kwargs", "message"),
    [
        (None, "step", {}, "schedule that decays during the training for start='decay', but got no schedule"),
        (lambda o: schedulers.ConstantLR(o, 0.5, 6), "step", {}, "for start='decay', but got one that does not"),
        (lambda o: schedulers.MultiStepLR(o, [5]), "epoch", {}, "for start='decay', but got one that does not"),
        (schedulers.ReduceLROnPlateau, "epoch", {}, "known in advance for start='decay', but got ReduceLROnPlateau"),
        (
            lambda o: schedulers.MultiStepLR(o, [2]),
            "epoch",
            {"loader": loader(dataset=Stream()), "max_steps": 20},
            "number of steps is known for start='decay' .* but got a loader without a length",
        ),
        (
            lambda o: schedulers.MultiStepLR(o, [2]),
            "step",
            {"loader": loader(dataset=Stream())},
            "expected a training whose length is known",
        ),
        (
            lambda o: schedulers.LambdaLR(o, lambda step: 1.0 if step < 3 else {}["the end"]),
            "step",
            {"max_epochs": 1},
            "schedule that decays during the training for start='decay', but got one that does not",
        ),
        (
            lambda o: schedulers.LambdaLR(o, lambda step: 1.0 if step < 3 else step.missing),
            "step",
            {},
            "can be stepped without a training for start='decay', but its simulation raised AttributeError",
        ),
        (schedulers.ExponentialLR, "step", {"max_epochs": -1}, "a training with an end"),
    ],
)
def test_what_has_no_known_decay_is_refused(schedule: Any, interval: str, kwargs: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fit(SAM(rho=0.2, start="decay"), schedule, interval, **kwargs)


def test_a_finder_beside_it_finds_with_sam_acting_and_the_decay_stays_where_it_is() -> None:
    def finder(**kwargs: Any) -> LRFinder:
        return LRFinder(min_lr=1e-4, max_lr=1.0, num_training_steps=50, suggestion="minimum", num_repeats=1, **kwargs)

    schedule, interval, step = SCHEDULES["one cycle"]
    share = SAM(rho=0.2, start=(step - 0.5) / STEPS)
    watching = finder(update_attr=False, milestones=(0, 3))
    assert_same_training(
        fit(SAM(rho=0.2, start="decay"), schedule, interval, callbacks=[watching]), fit(share, schedule, interval)
    )
    setting = fit(SAM(rho=0.2, start="decay"), schedule, interval, callbacks=[finder()])
    assert_same_training(setting, fit(share, schedule, interval, callbacks=[finder()]))


def test_a_radius_of_zero_asks_for_no_schedule() -> None:
    assert fit(SAM(rho=0.0, start="decay"), None).global_step == STEPS


class Long(Scheduled):
    """Looks for the decay of a long schedule before its first step."""

    def on_train_start(self) -> None:
        self.found = first_decay(self.trainer, self, 40_000, 40_000)


@pytest.mark.parametrize("peak", [20_001, 39_998])
def test_a_long_schedule_is_searched_to_the_step(peak: int) -> None:
    module = Long()
    module.build = lambda optimizer: schedulers.LambdaLR(optimizer, lambda step: min(step + 1, 2 * peak + 1 - step))
    train(module, [], loader(), max_epochs=1)
    assert module.found == peak + 1
    assert module.trainer.global_step == 6


def test_the_share_reaches_its_step_for_any_length() -> None:
    """Half a step of room on both sides: rounding cannot reach another step."""
    for steps in range(2, 400):
        assert all(math.ceil((step - 0.5) / steps * steps) == step for step in range(1, steps))
