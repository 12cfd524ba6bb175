"""Callbacks that change the batches of `validate`, `test` and `predict` act where these are rehearsed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_hp import BatchSizeScaler
from lightning_hp.rehearsal import EvaluationRehearsal, Rehearsal
from tests.rehearsal.test_observation import MEAN, SCALE, Linear, quiet, raw_loader, raw_samples
from tests.training import acting_in

FUNCTIONS = ("validate", "test", "predict")


class Notes(Linear):
    """Keeps the features of every step; the modes and the samples are those of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))
        self.seen: list[torch.Tensor] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.seen.append(batch[0].clone())
        self.total += batch[0].sum()

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.validation_step(batch, batch_idx)
        return self.layer(batch[0])


class Normalises(pl.Callback):
    """In each of the three loops, with what it has counted at the start of the loop."""

    def __init__(self) -> None:
        self.starts = self.batches = 0

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.starts += 1

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        assert self.starts == 1
        self.batches += 1
        batch[0].sub_(MEAN).div_(SCALE)

    on_test_start = on_predict_start = on_validation_start
    on_test_batch_start = on_predict_batch_start = on_validation_batch_start


class Counts(pl.Callback):
    """Only watches."""

    def __init__(self) -> None:
        self.batches = 0

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches += 1

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start


class Looks(pl.Callback):
    """Rehearses three batches of the loop, keeps what the module saw, and which callbacks acted."""

    def look(self, trainer: Any, pl_module: Any) -> None:
        with EvaluationRehearsal(trainer, pl_module, caller=self) as rehearsal:
            self.acting = acting_in(trainer)
            for _ in range(3):
                rehearsal.step()
            self.seen = copy.deepcopy(pl_module.seen)

    on_validation_start = on_test_start = on_predict_start = look


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_rehearsed_batches_are_those_of_the_loop(function: str, caplog: pytest.LogCaptureFixture) -> None:
    looks, normalises, counts, module = Looks(), Normalises(), Counts(), Notes()
    with caplog.at_level("INFO"):
        getattr(quiet([normalises, counts, looks]), function)(module, raw_loader())
    features = (raw_samples()[0] - MEAN) / SCALE
    assert looks.acting == ["Normalises"]
    assert torch.equal(torch.cat(looks.seen), features[:48])
    assert torch.equal(torch.cat(module.seen), features)  # once, and not what the rehearsal saw
    assert (normalises.starts, normalises.batches, counts.batches) == (1, 6, 6)
    assert torch.equal(module.total, sum(batch.sum() for batch in module.seen))
    assert any("Normalises acts in the rehearsed steps" in record.message for record in caplog.records)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_size_is_found_where_steps_need_what_the_callback_does(function: str) -> None:
    """Bytes become floats in the callback: without it no batch can be run."""

    class ToFloat(pl.Callback):
        def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            batch[0] = batch[0].float()

        on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    class Scores(Notes):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.layer(batch[0])

        test_step = validation_step

        def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.layer(batch[0])

    data = TensorDataset(torch.zeros(512, 4, dtype=torch.uint8))
    scaler = BatchSizeScaler(max_val=64)
    getattr(quiet([scaler, ToFloat()]), function)(Scores(), DataLoader(data, batch_size=4))
    assert scaler.result is not None
    assert all(trial.fitted for trial in scaler.result.trials)


class Declared(pl.Callback):
    """Would be seen, but says that it is none."""

    changes_gradients = False

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        batch[0].zero_()


def test_the_attribute_decides() -> None:
    looks = Looks()
    quiet([Declared(), looks]).test(Notes(), raw_loader())
    assert looks.acting == []


class OnlyInValidation(pl.Callback):
    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        batch[0].sub_(MEAN).div_(SCALE)


class ValidatesInRehearsal(pl.Callback):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        with Rehearsal(trainer, pl_module) as rehearsal:
            rehearsal.step()
            rehearsal.validate()
            self.seen = copy.deepcopy(pl_module.seen)


def test_the_validation_batch_of_a_training_is_shaped_too() -> None:
    looks = ValidatesInRehearsal()
    quiet([OnlyInValidation(), looks], max_epochs=1).fit(Notes(), raw_loader(), raw_loader())
    assert torch.equal(torch.cat(looks.seen), (raw_samples()[0][:16] - MEAN) / SCALE)
