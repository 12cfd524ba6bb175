"""A callback that acts on one of two processes: the scenario is run in both."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from lightning_hp.rehearsal import Rehearsal
from tests.distributed.two_ranks import finder, run
from tests.training import acting_in, assert_same_training


class OnRankOne(pl.Callback):
    """Doubles the features there, and counts its calls on both."""

    def __init__(self) -> None:
        self.calls = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.calls += 1
        if pl_module.global_rank == 1:
            batch[0].mul_(2)


class Looks(pl.Callback):
    """Rehearses one step and keeps who acted, and what the module was given."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        with Rehearsal(trainer, pl_module) as rehearsal:
            self.acting = acting_in(trainer)
            rehearsal.step()
            self.indices = pl_module.seen[-1]
            self.features = pl_module.last_features.clone()


class Later(pl.Callback):
    """Begins in the last epoch, on one process."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and pl_module.global_rank == 1:
            batch[0].mul_(2)


class FailsLater(pl.Callback):
    """Acts, and one process of two fails in the last epoch unless the first was trained."""

    changes_gradients = True

    def __init__(self) -> None:
        self.epochs = 0

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs += 1

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        assert self.epochs == trainer.current_epoch or pl_module.global_rank == 0


def one_rank_begins_later() -> None:
    """Seen on both; where a hook fails on one of them so early no process waits for another."""
    without = run([Later(), FailsLater()], {}, {})
    looks = Looks()
    with_look = run([Later(), FailsLater(), looks], {}, {})
    assert "FailsLater" in looks.acting
    assert_same_training(with_look, without)
    looks = Looks()
    run([Later(), looks], {}, {})
    assert "Later" in looks.acting
    looks = Looks()
    with_look = run([Later(), looks], {}, {})
    assert "Later" in looks.acting
    assert_same_training(with_look, run([Later()], {}, {}))


def one_rank_is_changed() -> None:
    """It acts on both, so that both call the same hooks; there is no trace."""
    looks = Looks()
    with_look = run([OnRankOne(), looks], {}, {})
    assert "OnRankOne" in looks.acting
    without = run([OnRankOne()], {}, {})
    assert_same_training(with_look, without)
    plain = Looks()
    run([plain], {}, {})
    assert "OnRankOne" not in plain.acting
    assert looks.indices == plain.indices
    noise_free = [features.round(decimals=1) for features in (looks.features, plain.features)]
    rank = with_look.module.global_rank
    assert torch.allclose(noise_free[0], noise_free[1] * (1 + rank), atol=0.25) is True
    assert torch.allclose(noise_free[0], noise_free[1] * 2, atol=0.25) is bool(rank)
    callback = OnRankOne()
    searched = run([callback, finder(update_attr=False)], {}, {})
    assert_same_training(searched, without)
    assert callback.calls == 2 * 3  # two epochs of 96 samples, 16 in a batch, on two processes
