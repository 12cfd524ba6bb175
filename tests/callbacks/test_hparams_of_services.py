"""HParamsLogger with MLflow and with W&B offline. Skipped where these are not installed (`mlflow-skinny`, `wandb`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import MLFlowLogger, WandbLogger

from lightning_hp import HParamsLogger
from tests.callbacks.test_hparams_logger import finder, fit, scaler
from tests.training import Net

pytestmark = pytest.mark.filterwarnings("ignore")  # of these libraries


@pytest.mark.parametrize("with_logger", [True, False], ids=["hparams_logger", "finders_alone"])
@pytest.mark.parametrize("error", [None, RuntimeError])
def test_mlflow_has_what_was_used_and_how_the_run_ended(
    with_logger: bool, error: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger("test", tracking_uri=f"file:{tmp_path}")

    class Ends(Net):
        def on_train_epoch_end(self) -> None:
            if error is not None:
                raise error("a bug")

    model, callbacks = Ends(), [scaler(), finder()]
    own = dict(model.hparams_initial)
    recorder = [HParamsLogger({"seed": 3}, ["val_loss"])] if with_logger else []
    if error is None:
        fit(model, [*recorder, *callbacks], logger)
    else:
        with pytest.raises(error):
            fit(model, [*recorder, *callbacks], logger)
    run = logger.experiment.get_run(logger.run_id)
    used = {**own, "lr": callbacks[1].result.lr_used, "batch_size": callbacks[0].result.batch_size_used}
    used |= {"seed": 3} if with_logger else {}
    assert used["lr"] != own["lr"]
    assert run.data.params == {name: str(value) for name, value in used.items()}
    assert run.info.status == ("FINISHED" if error is None else "FAILED")
    assert ("val_loss" in run.data.metrics) is True


def test_wandb_has_what_was_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="test", offline=True, save_dir=str(tmp_path))
    model, callbacks = Net(), [scaler(), finder()]
    own = dict(model.hparams_initial)
    fit(model, [HParamsLogger({"seed": 3}), *callbacks], logger)
    used = {**own, "lr": callbacks[1].result.lr_used, "batch_size": callbacks[0].result.batch_size_used, "seed": 3}
    assert dict(logger.experiment.config) == used
    assert dict(logger.experiment.summary)["val_loss"] > 0
    logger.experiment.finish()
