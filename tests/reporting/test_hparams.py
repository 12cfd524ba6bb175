"""What TensorBoard's HParams tab would show, read back from the event files as the tab reads them."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import yaml
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from torch import nn

from lightning_hp import LRFinder
from tests.module.models import DataModule, loader, quiet
from tests.module.test_classifier import SGD, classifier

METRICS = ["loss", "accuracy", "f1"]


def read(logger):
    """Hyperparameters, metrics of the tab, scalars by tag. Of each summary the first counts, as in the tab."""
    events = EventAccumulator(logger.log_dir).Reload()
    content = events.SummaryMetadata
    data = {}
    for tag in ("_hparams_/experiment", "_hparams_/session_start_info"):
        plugin = plugin_data_pb2.HParamsPluginData.FromString(content(tag).plugin_data.content)
        data[tag] = plugin
    experiment = data["_hparams_/experiment"].experiment
    start = data["_hparams_/session_start_info"].session_start_info
    hparams = {name: getattr(value, value.WhichOneof("kind")) for name, value in dict(start.hparams).items()}
    scalars = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return hparams, [info.name.tag for info in experiment.metric_infos], scalars


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
    assert hparams["head_options/norm"] == "None"  # what was left out is shown too
    assert hparams["lr_ratios"] == "{'backbone': 0.1}"
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


def test_all_runs_have_the_same_columns(tmp_path):
    runs = (
        {"head_options": None, "batch_size": 12},
        {"head_options": {"n_hidden_layers": 2, "activation_fn": nn.Tanh()}, "find_lr": {"update_attr": False}},
        {**SGD, "weight_decay": 0.1},
    )
    names = [list(read(fit(tmp_path, classifier(**options))[1])[0]) for options in runs]
    assert names[0] == names[1] == names[2]
    assert "head_options/n_hidden_layers" in names[0]


def test_other_loggers_get_them_too(tmp_path):
    logger = CSVLogger(tmp_path)
    model = classifier()
    pl.Trainer(**quiet(logger=logger, max_epochs=1)).fit(model, loader(), loader())
    assert yaml.safe_load((tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").read_text()) == dict(
        model.hparams
    )
