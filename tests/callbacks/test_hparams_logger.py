"""What HParamsLogger and the finders record, read back with the backend of TensorBoard's HParams plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.plugins.hparams import api_pb2
from torch import nn
from torch.utils.data import DataLoader

from lightning_hp import SAM, BatchSizeScaler, HParamsLogger, LRFinder
from lightning_hp.reporting import log_columns
from tests.reporting.tab import Tab
from tests.training import MemoryLogger, Net, Samples


class StrictLogger(MemoryLogger):
    """Refuses to change a parameter, as MLflow does; counts how often each is written."""

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[str, int] = {}

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        for name, value in dict(params).items():
            if self.hparams.setdefault(name, str(value)) != str(value):
                raise RuntimeError(f"Changing param values is not allowed: {name}")
            self.times[name] = self.times.get(name, 0) + 1


class NoHome(Net):
    """Own hyperparameters, and a rate that is written into ``configure_optimizers``."""

    def __init__(self, width: int = 16, names: Any = ("a", "b"), nothing: Any = None) -> None:
        super().__init__()
        del self.lr
        self._hparams.clear()
        self._hparams_initial.clear()
        self.save_hyperparameters()
        self._hparams["groups"] = False

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class NotFollowed(NoHome):
    """``hparams`` hold a rate that the optimizer does not follow."""

    def __init__(self, lr: float = 0.5) -> None:
        super().__init__()
        self._hparams.clear()
        self._hparams_initial.clear()
        self.save_hyperparameters()
        self._hparams["groups"] = False


class OnlyAnAttribute(NoHome):
    """The rate is in an attribute, not in ``hparams``."""

    def __init__(self) -> None:
        super().__init__()
        self.lr = 0.05

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Datamodule(pl.LightningDataModule):
    def __init__(self, batch_size: int = 16, augment: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> Any:
        return DataLoader(Samples(), self.hparams["batch_size"], shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(Samples(), 16)


def finder(**kwargs: Any) -> LRFinder:
    return LRFinder(min_lr=1e-4, num_training_steps=30, num_repeats=1, suggestion="steepest", zoom=False, **kwargs)


def scaler(**kwargs: Any) -> BatchSizeScaler:
    few: Any = {"limits": {"min_steps_per_epoch": 1, "min_training_steps": 1}, "class_options": {"num_classes": 3}}
    return BatchSizeScaler(min_per_class=8, max_val=24, **few, **kwargs)


def fit(
    module: Any, callbacks: list[Any], *loggers: Any, data: Any = None, ckpt_path: Any = None, **kwargs: Any
) -> Any:
    torch.manual_seed(0)
    options = {"max_epochs": 2, "log_every_n_steps": 1, "enable_checkpointing": False, **kwargs}
    trainer = pl.Trainer(
        callbacks=callbacks, logger=list(loggers), accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip
    if data is None:
        loader = DataLoader(Samples(), 16, shuffle=True)
        trainer.fit(module, loader, DataLoader(Samples(), 16), ckpt_path=ckpt_path)
    else:
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return trainer


def tensorboard(folder: Path, name: str) -> TensorBoardLogger:
    return TensorBoardLogger(folder, name=name, version="")


pytestmark = pytest.mark.filterwarnings("ignore:LRFinder. the learning rate stays")


@pytest.mark.parametrize("with_logger", [True, False], ids=["hparams_logger", "finders_alone"])
@pytest.mark.parametrize("module", [Net, NoHome, NotFollowed, OnlyAnAttribute])
def test_what_was_used_is_recorded_once_in_every_logger(tmp_path: Path, module: Any, with_logger: bool) -> None:
    model, callbacks = module(), [scaler(), finder()]
    own = dict(model.hparams_initial)
    strict, csv, board = StrictLogger(), CSVLogger(tmp_path / "csv"), tensorboard(tmp_path, "run")
    recorder = [HParamsLogger()] if with_logger else []
    trainer = fit(model, [*recorder, *callbacks], strict, csv, board)
    lr, size = callbacks[1].result.lr_used, callbacks[0].result.batch_size_used
    assert trainer.optimizers[0].param_groups[0]["lr"] == lr != own.get("lr")
    assert trainer.train_dataloader.batch_size == size != 16

    used = {**own, "lr": lr, "batch_size": size}
    assert strict.hparams == {name: str(value) for name, value in used.items()}
    assert set(strict.times.values()) == {1}
    for logger in (csv, board):
        saved = yaml.safe_load((Path(logger.log_dir) / "hparams.yaml").read_text(encoding="utf-8").replace("!!", "# "))
        assert saved["lr"] == lr
        assert saved["batch_size"] == size
        assert saved.keys() == used.keys()
    tab = Tab(tmp_path)
    assert tab.hparams["run"]["lr"] == lr
    assert tab.hparams["run"]["batch_size"] == size
    assert tab.columns.keys() == tab.hparams["run"].keys() == used.keys()
    assert tab.status == {"run": "STATUS_SUCCESS"}
    assert "hp_metric" not in tab.scalars("run")
    assert trainer.enable_autolog_hparams


def test_lists_none_and_functions_are_strings(tmp_path: Path) -> None:
    params = {
        "function": max,
        "class": nn.ReLU,
        "nested": {"a": 1, "b": {"c": float("nan")}},
        "tensor": torch.tensor(2.0),
        "empty": {},
    }
    fit(NoHome(), [HParamsLogger(params)], tensorboard(tmp_path, "run"))
    assert Tab(tmp_path).hparams["run"] == {
        "width": 16, "names": "('a', 'b')", "nothing": "None", "function": "max", "class": "ReLU", "nested/a": 1,
        "nested/b/c": "nan", "tensor": 2, "empty": "{}", "lr": 0.01, "batch_size": 16,
    }  # fmt: skip


@pytest.mark.parametrize("with_logger", [True, False])
def test_a_datamodule_that_keeps_the_size(tmp_path: Path, with_logger: bool) -> None:
    strict, size = StrictLogger(), scaler()
    fit(
        Net(),
        [size, *([HParamsLogger()] if with_logger else [])],
        strict,
        tensorboard(tmp_path, "run"),
        data=Datamodule(),
    )
    used = {"batch_size": size.result.batch_size_used, "lr": size.result.lr_used, "augment": False, "dropout": 0.0}
    assert used["batch_size"] != 16
    assert {name: strict.hparams[name] for name in used} == {name: str(value) for name, value in used.items()}
    assert {name: Tab(tmp_path).hparams["run"][name] for name in used} == used


def test_all_columns_though_runs_have_different_ones(tmp_path: Path) -> None:
    for metrics in (None, ["val_loss", "never_logged"]):
        folder = tmp_path / str(metrics is None)
        fit(Net(), [HParamsLogger({"a": 1, "kind": 1}, metrics)], tensorboard(folder, "one"))
        fit(NoHome(), [HParamsLogger({"b": 2.0, "kind": "x"})], tensorboard(folder, "two"))
        fit(NoHome(), [HParamsLogger({"c": True}, metrics), SAM(rho=0.1)], tensorboard(folder, "three"))
        tab = Tab(folder)
        assert tab.hparams.keys() == {"one", "two", "three"}
        assert tab.columns.keys() == set().union(*tab.hparams.values())
        assert {"a", "b", "c", "width", "dropout", "lr", "batch_size", "sam/rho"} <= tab.columns.keys()
        assert tab.columns["kind"] == tab.columns["names"] == api_pb2.DATA_TYPE_STRING
        assert tab.columns["c"] == api_pb2.DATA_TYPE_BOOL
        assert tab.columns["b"] == api_pb2.DATA_TYPE_FLOAT64
        if metrics is not None:
            assert tab.metrics == metrics
        for run, values in tab.values.items():
            assert values["val_loss"] == tab.scalars(run)["val_loss"][-1]


def test_metrics_are_live(tmp_path: Path) -> None:
    seen = []

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.logger.experiment.flush()
            tab = Tab(tmp_path)
            seen.append((tab.values["run"].get("val_loss"), tab.status["run"]))

    fit(Net(), [HParamsLogger(metrics=["val_loss"]), Look()], tensorboard(tmp_path, "run"), max_epochs=3)
    assert [status for _, status in seen] == ["STATUS_UNKNOWN"] * 3
    assert len({value for value, _ in seen if value is not None}) >= 2
    assert len(Tab(tmp_path).scalars("run")["val_loss"]) == 3


@pytest.mark.parametrize(
    "hook", ["setup", "on_fit_start", "on_sanity_check_start", "on_train_start", "on_train_epoch_end"]
)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_run_that_raises_is_shown_as_failed(tmp_path: Path, hook: str, error: Any) -> None:
    class Bug(pl.Callback):
        pass

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error("a bug")

    setattr(Bug, hook, fail)
    trainers: list[Any] = []

    class Keep(pl.Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            trainers.append(trainer)

    with pytest.raises(SystemExit if error is KeyboardInterrupt else error):
        fit(Net(), [Keep(), HParamsLogger({"seed": 3}), Bug()], tensorboard(tmp_path, "run"))
    tab = Tab(tmp_path)
    assert tab.status == {"run": "STATUS_FAILURE"}
    assert tab.hparams["run"]["seed"] == 3
    assert tab.hparams["run"]["dropout"] == 0
    assert trainers[0].enable_autolog_hparams


def test_a_finder_alone_marks_a_failed_run(tmp_path: Path) -> None:
    class Bug(pl.Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fit(Net(), [finder(), Bug()], tensorboard(tmp_path, "run"))
    assert Tab(tmp_path).status == {"run": "STATUS_FAILURE"}


def test_a_finder_that_sets_nothing_leaves_the_record_to_lightning(tmp_path: Path) -> None:
    with_finder, without = MemoryLogger(), MemoryLogger()
    fit(NoHome(), [finder(update_attr=False)], with_finder)
    fit(NoHome(), [], without)
    assert with_finder.hparams == without.hparams
    silent = MemoryLogger()
    fit(NoHome(), [finder()], silent, enable_autolog_hparams=False)
    assert silent.hparams == {}


@pytest.mark.parametrize("module", [Net, NoHome, OnlyAnAttribute])
def test_a_resumed_run_and_a_second_fit_have_what_was_found(tmp_path: Path, module: Any) -> None:
    first = [scaler(), finder()]
    strict = StrictLogger()
    trainer = fit(module(), first, strict)
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    before = dict(strict.hparams)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(trainer.lightning_module, DataLoader(Samples(), 16, shuffle=True), DataLoader(Samples(), 16))
    assert strict.hparams == before
    for recorder in ([], [HParamsLogger()]):
        resumed = StrictLogger()
        fit(module(), [scaler(), finder(), *recorder], resumed, ckpt_path=path, max_epochs=3)
        assert {name: resumed.hparams[name] for name in ("lr", "batch_size")} == {
            "lr": str(first[1].result.lr_used), "batch_size": str(first[0].result.batch_size_used),
        }  # fmt: skip


def test_hyperparameters_that_are_not_to_be_logged_are_not(tmp_path: Path) -> None:
    class Private(Net):
        def __init__(self, secret: int = 1) -> None:
            super().__init__()
            self._hparams.clear()
            self._hparams_initial.clear()
            self.save_hyperparameters(logger=False)
            self._hparams["groups"] = False
            self._hparams.update(scheduler="", optimizer="sgd")

    logger = MemoryLogger()
    fit(Private(), [HParamsLogger()], logger)
    assert logger.hparams.keys() == {"lr", "batch_size"}


def test_several_in_a_trainer_write_one_record() -> None:
    strict = StrictLogger()
    fit(Net(), [HParamsLogger({"a": 1}), HParamsLogger({"b": 2})], strict)
    assert strict.hparams["a"] == "1"
    assert strict.hparams["b"] == "2"
    assert set(strict.times.values()) == {1}


def test_what_a_finder_sets_replaces_params() -> None:
    logger, callback = MemoryLogger(), finder()
    fit(NoHome(), [HParamsLogger({"lr": 0.7, "width": 3}), callback], logger)
    assert logger.hparams["lr"] == callback.result.lr_used
    assert logger.hparams["width"] == 3


def test_settings_of_sam_are_recorded() -> None:
    logger = MemoryLogger()
    fit(Net(), [SAM(rho=0.3, adaptive=True), HParamsLogger()], logger)
    assert {name: value for name, value in logger.hparams.items() if name.startswith("sam/")} == {
        "sam/rho": 0.3, "sam/adaptive": True,
    }  # fmt: skip


def test_no_logger_and_fast_dev_run() -> None:
    for options in ({"logger": False}, {"fast_dev_run": True}):
        trainer = pl.Trainer(callbacks=[HParamsLogger()], accelerator="cpu", enable_progress_bar=False, max_epochs=1,
                             enable_model_summary=False, enable_checkpointing=False, **options)  # fmt: skip
        trainer.fit(Net(), DataLoader(Samples(), 16), DataLoader(Samples(), 16))
        trainer.validate(Net(), DataLoader(Samples(), 16), verbose=False)


def test_wrong_metrics_are_refused() -> None:
    with pytest.raises(TypeError, match="a list of names of logged scalars, or None, but got 'val_loss'"):
        HParamsLogger(metrics="val_loss")


def test_columns_that_another_process_has_replaced_are_added_again(tmp_path: Path) -> None:
    class Replace(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            for file in tmp_path.glob("*tfevents*"):
                file.unlink()
            log_columns(tmp_path, {"other": 1}, ["val_loss"])

    fit(Net(), [HParamsLogger({"seed": 3}, ["val_loss"]), Replace()], tensorboard(tmp_path, "run"))
    assert {"seed", "lr", "other"} <= Tab(tmp_path).columns.keys()
    assert Tab(tmp_path).metrics == ["val_loss"]


def test_where_the_columns_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for logger in (TensorBoardLogger("."), TensorBoardLogger("runs", name="a"), TensorBoardLogger("sweep", name="")):
        fit(Net(), [HParamsLogger(metrics=["val_loss"])], logger, max_epochs=1)
    found = {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.hparams")}
    assert found == {"lightning_logs", "runs", "sweep"}
    assert not list(tmp_path.rglob("*.part"))
