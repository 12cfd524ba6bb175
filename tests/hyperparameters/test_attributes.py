"""Named attributes: all places are found, read and written together, and refused if they disagree."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lightning_hp.hyperparameters.attributes import as_number, find_attribute


class Model(pl.LightningModule):
    def __init__(self, batch_size=32):
        super().__init__()
        self.save_hyperparameters()
        self.batch_size = batch_size


class Data(pl.LightningDataModule):
    def __init__(self, batch_size=32):
        super().__init__()
        self.save_hyperparameters()


def test_all_places_are_one_value():
    model, data = Model(), Data()
    attribute = find_attribute("batch_size", model=model, datamodule=data)
    assert str(attribute) == "`model.batch_size` and `model.hparams.batch_size` and `datamodule.hparams.batch_size`"
    assert attribute.read() == 32
    attribute.write(128)
    assert model.batch_size == model.hparams.batch_size == data.hparams.batch_size == 128
    # Lightning compares these two before it logs them, and refuses to train if they differ.
    assert model.hparams_initial.batch_size == data.hparams_initial.batch_size == 128


def test_values_that_disagree_are_refused():
    attribute = find_attribute("batch_size", model=Model(), datamodule=Data(64))
    assert not attribute.agrees
    with pytest.raises(ValueError, match=r"`model.batch_size` = 32, .*`datamodule.hparams.batch_size` = 64. Make them"):
        attribute.read()


def test_the_same_number_in_another_type_agrees():
    owner = SimpleNamespace(batch_size=np.int64(32), hparams={"batch_size": "32"})
    assert find_attribute("batch_size", model=owner).read() == 32


def test_nothing_is_found():
    attribute = find_attribute("batch_size", model=SimpleNamespace(width=3), datamodule=None)
    assert not attribute
    assert attribute.paths == ()


@pytest.mark.parametrize("name", ["a.b.lr", "a.lr", "lr.a", "hparams.a.lr"])
def test_an_incomplete_path_is_not_found(name):
    assert not find_attribute(name, model=SimpleNamespace(a=None, lr=0.1, hparams={}))


def test_a_place_that_cannot_be_written_is_refused():
    @dataclass(frozen=True)
    class Settings:
        lr: float = 0.1

    attribute = find_attribute("settings.lr", model=SimpleNamespace(settings=Settings()))
    with pytest.raises(ValueError, match=r"got `model.settings.lr`: cannot assign to field"):
        attribute.write(0.2)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1.0), (0.5, 0.5), ("3e-4", 3e-4), (np.float32(0.5), 0.5), (torch.tensor([2.0]), 2.0), (None, None),
        (True, None), (torch.tensor(True), None), ("fast", None), (float("nan"), None), ("inf", None),
        (torch.ones(2), None), ([1], None), (1j, None), (10**400, None), (b"1", None),
    ],
)  # fmt: skip
def test_what_is_a_number(value, number):
    assert as_number(value) == number
