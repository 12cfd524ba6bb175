"""One of two processes of ``ddp``: rank zero alone has a study; both raise."""

from __future__ import annotations

import os
from pathlib import Path

import optuna
import pytest

from lightning_hp import PruningCallback
from tests.callbacks.test_pruning import EndsAfter, Epochs, fit


def prune() -> None:
    is_first = os.environ["LOCAL_RANK"] == "0"
    trial = optuna.create_study(pruner=EndsAfter(1)).ask() if is_first else optuna.trial.FixedTrial({})
    callbacks = [PruningCallback(trial, "val_loss"), Epochs(Path.cwd())]
    with pytest.raises(optuna.TrialPruned, match="epoch 1"):
        fit(callbacks, strategy="ddp", devices=2)
