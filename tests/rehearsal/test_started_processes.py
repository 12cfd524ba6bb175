"""Trainers that start processes of their own are refused: what is found there does not come back."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_hp import BatchSizeScaler, Classifier, LRFinder
from tests.training import make_samples

pytestmark = pytest.mark.filterwarnings("ignore:.*fork")


def classifier() -> Classifier:
    return Classifier(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()), 3)


def loader() -> DataLoader:
    return DataLoader(TensorDataset(*make_samples()), batch_size=16)


def trainer_that_forks(package, *callbacks):
    return importlib.import_module(package).Trainer(
        strategy="ddp_fork", accelerator="cpu", devices=1, max_epochs=1, callbacks=list(callbacks), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.parametrize("kind", [LRFinder, BatchSizeScaler])
def test_a_finder_is_refused_in_fit(package, kind):
    with pytest.raises(Exception, match=r"Expected a strategy that runs in the processes of the script.*by `fork`"):
        trainer_that_forks(package, kind()).fit(classifier(), loader(), loader())


def test_a_finder_is_refused_in_validate():
    with pytest.raises(Exception, match="Expected a strategy that runs in the processes of the script"):
        trainer_that_forks("pytorch_lightning", BatchSizeScaler()).validate(classifier(), loader())


def test_find_is_refused_in_this_process():
    error = importlib.import_module("pytorch_lightning.utilities.exceptions").MisconfigurationException
    with pytest.raises(error, match="Expected a strategy that runs in the processes of the script"):
        LRFinder().find(trainer_that_forks("pytorch_lightning"), classifier(), loader())
