"""What TensorBoard's HParams tab would show, read back from the event files as the tab reads them."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import yaml
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch import nn

from lightning_hp import HParamsLogger, LRFinder
from tests.module.models import DataModule, loader, quiet
from tests.module.test_classifier import SGD, classifier
from tests.reporting.tab import Tab

METRICS = ["loss", "accuracy", "f1"]


def read(logger):
    """Hyperparameters, metrics of the tab, scalars by tag."""
    tab, run = Tab(logger.save_dir), f"lightning_logs/version_{logger.version}"
    assert tab.runs_with_columns == ["."]
    assert tab.hparams[run].keys() <= tab.columns.keys()
    assert tab.status[run] == "STATUS_SUCCESS"
    return tab.hparams[run], tab.metrics, tab.scalars(run)


def fit(tmp_path, model, data=None, callbacks=()):
    logger = TensorBoardLogger(tmp_path)
    trainer = pl.Trainer(callbacks=list(callbacks), **quiet(logger=logger))
    if data is None:
        trainer.fit(model, loader(batch_size=12, shuffle=True), loader())
    else:
        trainer.fit(model, datamodule=data)
    return trainer, logger


def test_what_was_used_is_shown_beside_what_came_of_it(tmp_path):
    finder = LRFinder(min_lr=1e-4, num_training_steps=70)
    model = classifier(lr_ratios={"backbone": 0.1}, class_weights=[1.0, 2.0, 1.0])
    trainer, logger = fit(tmp_path, model, callbacks=[finder])
    hparams, columns, scalars = read(logger)
    assert hparams["lr"] == finder.optimal_lr != 0.05
    assert hparams["batch_size"] == 12
    assert hparams["head_options/n_hidden_units"] == 64
    assert hparams["head_options/activation_fn"] == "ReLU"
    assert hparams["lr_ratios/backbone"] == 0.1
    assert hparams["backbone"] == "<Sequential>"
    assert hparams["class_weights"] == "[1.0, 2.0, 1.0]"
    assert columns == [f"{stage}_{name}" for stage in ("val", "train", "test") for name in METRICS]
    for name in METRICS:
        assert scalars[f"val_{name}"][-1] == pytest.approx(trainer.callback_metrics[f"val_{name}"].item())
        assert len(scalars[f"val_{name}"]) == 2, "a point that was not measured"
    assert "hp_metric" not in scalars
    saved = yaml.safe_load((tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").read_text(encoding="utf-8"))
    assert saved == dict(model.hparams)


def test_with_a_datamodule_of_its_own_hyperparameters(tmp_path):
    _, logger = fit(tmp_path, classifier(), DataModule(batch_size=24))
    hparams, columns, scalars = read(logger)
    assert hparams["batch_size"] == 24
    assert hparams["num_samples"] == 96
    assert hparams["optimizer"] == "AdamW"
    assert columns[0] == "val_loss"
    assert len(scalars["val_loss"]) == 2


def test_the_hyperparameters_of_all_runs_are_columns(tmp_path):
    runs = (
        {"head_options": None, "batch_size": 12},
        {"head_options": {"n_hidden_layers": 2, "activation_fn": nn.Tanh()}, "find_lr": {"update_attr": False}},
        {**SGD, "weight_decay": 0.1},
    )
    names = [read(fit(tmp_path, classifier(**options))[1])[0].keys() for options in runs]
    assert names[0] != names[1] != names[2]
    assert Tab(tmp_path).columns.keys() == names[0] | names[1] | names[2]


def test_other_loggers_get_them_too(tmp_path):
    logger = CSVLogger(tmp_path)
    model = classifier()
    pl.Trainer(**quiet(logger=logger, max_epochs=1)).fit(model, loader(), loader())
    assert yaml.safe_load((tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").read_text()) == dict(
        model.hparams
    )


def test_with_an_hparams_logger_there_is_one_record(tmp_path):
    class Counting(CSVLogger):
        times = 0

        def log_hyperparams(self, params):
            Counting.times += 1
            super().log_hyperparams(params)

    model = classifier(find_lr={"num_training_steps": 30, "suggestion": "fall"})
    board, csv = TensorBoardLogger(tmp_path), Counting(tmp_path)
    recorder = HParamsLogger({"seed": 3}, ["val_accuracy"])
    trainer = pl.Trainer(callbacks=[recorder], **quiet(logger=[board, csv], max_epochs=1))
    trainer.fit(model, loader(batch_size=12), loader())
    hparams, metrics, _ = read(board)
    assert metrics == ["val_accuracy"]
    assert hparams["lr"] == model.lr
    assert hparams["batch_size"] == 12
    assert hparams["seed"] == 3
    assert Counting.times == 1


def test_a_run_of_a_classifier_that_raises_is_shown_as_failed(tmp_path):
    class Bug(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fit(tmp_path, classifier(), callbacks=[Bug()])
    assert list(Tab(tmp_path).status.values()) == ["STATUS_FAILURE"]
