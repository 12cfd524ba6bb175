"""In rehearsed steps each hook was called as often as before the same step of a training, and the epochs go on."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, GradientAccumulationScheduler

from lightning_hp import BackboneFreezing, BatchSizeScaler, GradientNoiseScale, LRFinder
from lightning_hp.rehearsal import is_rehearsal
from tests.callbacks.contract import loader
from tests.training import Net, train

#: Batches of an epoch of these trainings.
PER_EPOCH = 6

#: A validation draws random numbers between two epochs.
NO_VALIDATION = {"limit_val_batches": 0, "num_sanity_val_steps": 0}

#: Whether the steps were rehearsed, and the epochs they were in. Not in a callback, whose state a rehearsal restores.
EPOCHS: set[tuple[bool, int]] = set()


class IsObserved(Callback):
    """Doubles the features, and checks in each batch which hooks were called; it is ready after ``on_fit_start``."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.starts = {"fit": vars(self).get("starts", {"fit": 0})["fit"] + 1, "train": 0}
        self.epochs: list[int] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.starts["train"] += 1

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append(trainer.current_epoch)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        EPOCHS.add((is_rehearsal(trainer), trainer.current_epoch))
        assert self.starts == {"fit": 1, "train": 1}
        assert self.epochs == list(range(trainer.current_epoch + 1))
        batch[0].mul_(1.0 + self.starts["fit"])


class Declares(IsObserved):
    changes_gradients = True


def finder(**kwargs: Any) -> LRFinder:
    return LRFinder(**{"min_lr": 1e-4, "num_training_steps": 20, "budget": 140, "update_attr": False, **kwargs})


@pytest.mark.parametrize("kind", [Declares, IsObserved])
@pytest.mark.parametrize(
    "tuners",
    [
        lambda: [finder()],
        lambda: [finder(milestones=(0, 1))],
        lambda: [finder(milestones=(2,))],
        lambda: [BatchSizeScaler(update_attr=False)],
        lambda: [GradientNoiseScale(num_micro_batches=2)],
        lambda: [BatchSizeScaler(update_attr=False), finder()],
    ],
)
def test_hooks_were_called_as_in_the_training(tuners: Any, kind: Any) -> None:
    """Of callbacks before the tuner, behind it, and between two of them."""
    EPOCHS.clear()
    listed = [kind()]
    for tuner in tuners():
        listed += [tuner, kind()]
    train(Net(), listed, loader(shuffle=True), max_epochs=4, **NO_VALIDATION)
    assert {epoch for rehearsed, epoch in EPOCHS if not rehearsed} == {0, 1, 2, 3}
    assert any(rehearsed for rehearsed, _ in EPOCHS)


@pytest.mark.parametrize("kind", [Declares, IsObserved])
def test_hooks_were_called_in_a_search_outside_of_fit(kind: Any) -> None:
    EPOCHS.clear()
    trainer = pl.Trainer(
        max_epochs=6, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[kind(), kind()], **NO_VALIDATION,
    )  # fmt: skip
    module = Net()
    module.val_dataloader = loader
    finder().find(trainer, module, loader(shuffle=True))
    assert {epoch for _, epoch in EPOCHS} >= set(range(5))


class ByEpoch(Net):
    """The scale of its features changes with the epoch."""

    def on_train_epoch_start(self) -> None:
        self.scale = 1.0 + self.current_epoch

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert self.scale == 1 + self.trainer.current_epoch
        return super().training_step([batch[0] * self.scale, *batch[1:]], batch_idx)


class Tempers(Callback):
    """A schedule by epoch, which cannot be seen in the first step."""

    changes_gradients = True

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.factor = 0.5**trainer.current_epoch

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        for parameter in pl_module.parameters():
            if parameter.grad is not None:
                parameter.grad *= self.factor


class Losses(Callback):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)


def trained_by_hand(module: type[Net], lr: float, callbacks: list[Any], num_batches: int) -> list[float]:
    torch.manual_seed(3)
    epochs, record = math.ceil(num_batches / PER_EPOCH), Losses()
    train(module(lr=lr), [*callbacks, record], loader(shuffle=True), max_epochs=epochs, **NO_VALIDATION)
    return record.losses[:num_batches]


@pytest.mark.parametrize(
    ("module", "callbacks"),
    [
        (ByEpoch, list),
        (Net, lambda: [Tempers()]),
        (Net, lambda: [BackboneFreezing({2: "0"}, backbone="body")]),
    ],
)
def test_a_short_training_over_several_passes_is_one_over_as_many_epochs(module: Any, callbacks: Any) -> None:
    """Its losses are those of `fit` with the rate typed in."""
    torch.manual_seed(3)
    tuner = finder(suggestion="trainings")
    train(module(), [tuner, *callbacks()], loader(shuffle=True), max_epochs=8, **NO_VALIDATION)
    result = tuner.result
    assert len(result.trained_lrs) >= 3
    for lr, losses in zip(result.trained_lrs, result.trained_losses, strict=True):
        assert len(losses) > 3 * PER_EPOCH
        assert losses == pytest.approx(trained_by_hand(module, lr, callbacks(), len(losses)), rel=1e-6)


def test_batches_of_a_step_are_those_of_its_epoch() -> None:
    """One in the first two epochs, two in the others."""
    torch.manual_seed(3)
    tuner = finder(suggestion="trainings")
    accumulates = GradientAccumulationScheduler({0: 1, 2: 2})
    train(Net(), [tuner, accumulates], loader(shuffle=True), max_epochs=8, **NO_VALIDATION)
    for lr, losses in zip(tuner.result.trained_lrs, tuner.result.trained_losses, strict=True):
        batches = 2 * PER_EPOCH + 2 * (len(losses) - 2 * PER_EPOCH)
        by_hand = trained_by_hand(Net, lr, [GradientAccumulationScheduler({0: 1, 2: 2})], batches)
        single, double = by_hand[: 2 * PER_EPOCH], by_hand[2 * PER_EPOCH :]
        wanted = single + [sum(pair) / 2 for pair in zip(double[::2], double[1::2], strict=True)]
        assert losses == pytest.approx(wanted, rel=1e-5)


class Later(Callback):
    """Declares nothing, and changes nothing in the first epochs."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch >= self.epoch:
            batch[0].mul_(0.5)


@pytest.mark.parametrize("epoch", [1, 4, 7])
def test_what_begins_in_a_later_epoch_is_seen(epoch: int) -> None:
    torch.manual_seed(3)
    tuner = finder(suggestion="trainings")
    train(Net(), [tuner, Later(epoch)], loader(shuffle=True), max_epochs=8, **NO_VALIDATION)
    for lr, losses in zip(tuner.result.trained_lrs, tuner.result.trained_losses, strict=True):
        assert losses == pytest.approx(trained_by_hand(Net, lr, [Later(epoch)], len(losses)), rel=1e-6)


class Sets(Callback):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.gradient_clip_val = 0.05


def test_a_callback_that_is_not_called_is_named(caplog: pytest.LogCaptureFixture) -> None:
    for callbacks, is_named in (([finder(), Sets()], True), ([Sets(), finder()], False)):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            train(Net(), callbacks, loader(shuffle=True), max_epochs=2, **NO_VALIDATION)
        assert ("`on_fit_start` of Sets is not called" in caplog.text) == is_named


class AsksForItsLength(Net):
    """Lightning makes the iterator of the first epoch to answer."""

    def configure_optimizers(self) -> Any:
        assert self.trainer.estimated_stepping_batches == 8 * PER_EPOCH
        return super().configure_optimizers()


@pytest.mark.parametrize("own", [False, True])
def test_batches_are_those_of_the_training_where_its_iterator_exists(own: bool) -> None:
    """Shuffled by torch's generator, or by one of the loader."""

    def shuffled() -> Any:
        return loader(shuffle=True, generator=torch.Generator().manual_seed(9) if own else None)

    torch.manual_seed(3)
    tuner = finder(suggestion="trainings")
    train(AsksForItsLength(), [tuner], shuffled(), max_epochs=8, **NO_VALIDATION)
    for lr, losses in zip(tuner.result.trained_lrs, tuner.result.trained_losses, strict=True):
        torch.manual_seed(3)
        record = Losses()
        train(AsksForItsLength(lr=lr), [record], shuffled(), max_epochs=8, **NO_VALIDATION)
        assert losses == pytest.approx(record.losses[: len(losses)], rel=1e-6)


def test_workers_that_stay_give_the_batches_of_the_training() -> None:
    """They draw no number when they start again, unlike those that begin."""

    def shuffled() -> Any:
        return loader(shuffle=True, num_workers=1, persistent_workers=True)

    torch.manual_seed(3)
    tuner = finder(suggestion="trainings")
    train(Net(), [tuner], shuffled(), max_epochs=4, **NO_VALIDATION)
    torch.manual_seed(3)
    record = Losses()
    train(Net(lr=tuner.result.trained_lrs[0]), [record], shuffled(), max_epochs=1, **NO_VALIDATION)
    assert tuner.result.trained_losses[0][:PER_EPOCH] == pytest.approx(record.losses, rel=1e-6)


class NeedsAValidation(Net):
    def on_train_epoch_start(self) -> None:
        if self.current_epoch:
            self.best = self.trainer.callback_metrics["val_loss"]


def test_a_hook_that_needs_a_validation_does_not_end_the_search(caplog: pytest.LogCaptureFixture) -> None:
    tuner = finder(suggestion="trainings")
    with caplog.at_level(logging.INFO):
        run = train(NeedsAValidation(), [tuner], loader(shuffle=True), max_epochs=4)
    assert run.global_step == 4 * PER_EPOCH
    assert tuner.result.suggestion
    assert caplog.text.count("`on_train_epoch_start` raised KeyError ('val_loss') in epoch 1") == 1


class HasOneFactorAnEpoch(Callback):
    changes_gradients = True
    factors = (1.0, 0.5)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.factor = self.factors[trainer.current_epoch]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        batch[0].mul_(self.factor)


def test_there_are_no_more_epochs_than_in_the_training(caplog: pytest.LogCaptureFixture) -> None:
    """Also where a search takes more steps."""
    with caplog.at_level(logging.INFO):
        train(Net(), [finder(), HasOneFactorAnEpoch()], loader(shuffle=True), max_epochs=2, **NO_VALIDATION)
    assert "raised" not in caplog.text
