"""PruningCallback in an objective of Optuna: what it reports, when it ends a training, and in which processes."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.storages.journal import JournalFileBackend
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, TensorDataset

from lightning_hp import PruningCallback
from tests.distributed.launch import check_both

PACKAGES = ["pytorch_lightning", "lightning.pytorch"]
DATA = TensorDataset(torch.arange(16.0).reshape(8, 2))
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture(autouse=True)
def quiet_optuna():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def storage(kind: str, folder: Path) -> Any:
    if kind == "journal":
        return optuna.storages.JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    return f"sqlite:///{folder}/study.db" if kind == "rdb" else None


def fit(callbacks: list[Any], package: str = PACKAGES[0], level: float = 0.0, **trainer: Any) -> Any:
    """Four epochs by default. The validation loss of an epoch is ``level`` plus the norm of the weights."""
    pl = import_module(package)

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = self.layer(batch[0]).pow(2).mean()
            self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", level + sum(weight.detach().norm() for weight in self.parameters()), sync_dist=True)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.001)

    torch.manual_seed(1)
    module = Net()
    loaders = DataLoader(DATA, batch_size=4), DataLoader(DATA, batch_size=8)
    trainer = pl.Trainer(**{"max_epochs": 4, "accelerator": "cpu", **QUIET, "callbacks": callbacks, **trainer})
    trainer.fit(module, *loaders)
    return trainer


def by_hand(metric: str, epochs: int = 4) -> list[float]:
    """The values of all epochs, without Lightning."""
    torch.manual_seed(1)
    layer = torch.nn.Linear(2, 1)
    values = []
    for _ in range(epochs):
        losses = []
        for batch in DATA.tensors[0].split(4):
            loss = layer(batch).pow(2).mean()
            layer.zero_grad()
            loss.backward()
            losses.append(loss.item())
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter -= 0.001 * parameter.grad
        norm = float(sum(parameter.detach().norm() for parameter in layer.parameters()))
        values.append(norm if metric == "val_loss" else sum(losses) / len(losses))
    return values


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("kind", ["memory", "rdb", "journal"])
def test_poor_trials_end_and_the_values_are_those_of_a_loop(kind: str, package: str, tmp_path: Path):
    def objective(trial: optuna.Trial) -> float:
        level = trial.suggest_categorical("level", [0.0, 5.0])
        trainer = fit([PruningCallback(trial, "val_loss")], package, level, num_sanity_val_steps=2)
        return trainer.callback_metrics["val_loss"].item()

    pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=1)
    study = optuna.create_study(storage=storage(kind, tmp_path), pruner=pruner)
    study.enqueue_trial({"level": 0.0})
    study.enqueue_trial({"level": 5.0})
    study.optimize(objective, n_trials=2)

    values = by_hand("val_loss")
    good, poor = study.trials
    assert [good.state.name, poor.state.name] == ["COMPLETE", "PRUNED"]
    assert good.intermediate_values == pytest.approx(dict(enumerate(values)))
    assert poor.intermediate_values == pytest.approx({0: 5 + values[0], 1: 5 + values[1]})
    assert good.value == pytest.approx(values[-1])


@pytest.mark.parametrize(
    ("metric", "options", "epochs"),
    [
        ("train_loss", {}, [0, 1, 2, 3]),
        ("train_loss", {"limit_val_batches": 0}, [0, 1, 2, 3]),
        ("val_loss", {"check_val_every_n_epoch": 2}, [1, 3]),
        ("train_loss", {"check_val_every_n_epoch": 2}, [0, 1, 2, 3]),
        ("val_loss", {"num_sanity_val_steps": 2}, [0, 1, 2, 3]),
    ],
)
def test_each_value_is_reported_in_the_epoch_that_logs_it(metric: str, options: dict[str, Any], epochs: list[int]):
    trial = optuna.create_study().ask()

    fit([PruningCallback(trial, metric)], **options)

    values = by_hand(metric)
    reported = trial.storage.get_trial(trial._trial_id).intermediate_values
    assert reported == pytest.approx({epoch: values[epoch] for epoch in epochs})


def test_of_several_validations_in_an_epoch_the_first_is_reported():
    trial = optuna.create_study().ask()

    fit([PruningCallback(trial, "val_loss")], val_check_interval=0.5)

    assert list(trial.storage.get_trial(trial._trial_id).intermediate_values) == [0, 1, 2, 3]


def test_a_metric_that_is_not_logged_is_an_error():
    with pytest.raises(MisconfigurationException, match="to log `acc`, but it logs train_loss, val_loss"):
        fit([PruningCallback(optuna.create_study().ask(), "acc")])


class EndsAfter(optuna.pruners.BasePruner):
    """Prunes every trial after an epoch."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def prune(self, study: Any, trial: Any) -> bool:
        return trial.last_step >= self._epoch


class Epochs(import_module(PACKAGES[0]).Callback):
    """Writes the epochs of each process to a file of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        with (self._folder / f"epochs_{trainer.global_rank}").open("a") as file:
            file.write(f"{trainer.current_epoch} ")


FORK = {"strategy": "ddp_fork", "devices": 2}


@pytest.mark.parametrize("kind", ["rdb", "journal"])
def test_all_forked_processes_stop_in_the_same_epoch(kind: str, tmp_path: Path):
    study = optuna.create_study(storage=storage(kind, tmp_path), pruner=EndsAfter(1))
    trial = study.ask()
    callback = PruningCallback(trial, "val_loss", raises=False)

    fit([callback, Epochs(tmp_path)], **FORK)

    assert callback.is_pruned
    assert [(tmp_path / f"epochs_{rank}").read_text() for rank in range(2)] == ["0 1 "] * 2
    assert list(study.trials[0].intermediate_values) == [0, 1]


@pytest.mark.parametrize(("kind", "word"), [("memory", "`storage` on disk"), ("journal", "`raises=False`")])
def test_what_does_not_come_back_from_forked_processes_is_refused(kind: str, word: str, tmp_path: Path):
    trial = optuna.create_study(storage=storage(kind, tmp_path)).ask()
    with pytest.raises(Exception, match=word):
        fit([PruningCallback(trial, "val_loss")], **FORK)


@pytest.mark.exhaustive
def test_launched_processes_stop_in_the_same_epoch_and_all_raise(tmp_path: Path):
    check_both("prune", tmp_path, timeout=240, module="tests.distributed.pruning_ranks")
    assert [(tmp_path / f"epochs_{rank}").read_text() for rank in range(2)] == ["0 1 "] * 2
