"""Contract 6: what holds in `pytorch_lightning` holds in `lightning.pytorch`; LightningCLI of both builds it all."""

from __future__ import annotations

import importlib
import json
from typing import Any

import lightning.pytorch
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_hp import SAM, BackboneFreezing, BatchSizeScaler, Classifier, LRFinder
from tests.callbacks.contract import MEMBERS, TRAININGS, Member, Training, batch_size_by_hand, loader
from tests.lightning_net import LightningNet
from tests.training import Net, Run, Samples, assert_same_training, train

PACKAGES = ["pytorch_lightning", "lightning.pytorch"]
#: Rows that pass through what differs between the packages: steps, clipping, schedules, wrapped optimizers, our module.
ROWS = ["batch_norm", "one_cycle", "manual", "accumulation", "clip_value", "short_loader", "sam", "classifier"]
VALIDATION = loader()  # its batch size is no concern of a callback
OURS = [member for member in MEMBERS if member.name != "rehearsal"]  # a callback of a user's, of one package
IDLE = [
    pytest.param(member, training, id=f"{member.name}-{training.name}")
    for member in OURS
    for training in TRAININGS
    if training.name in ("batch_norm", "manual", "sam", "classifier")  # in the others the active ones find the same
]
_WITHOUT: dict[str, Run] = {}
packages = pytest.mark.parametrize("package", PACKAGES)
rows = pytest.mark.parametrize("training", [t for t in TRAININGS if t.name in ROWS], ids=lambda training: training.name)

pytestmark = pytest.mark.filterwarnings("ignore:LRFinder. the learning rate stays")


@pytest.fixture(autouse=True)
def no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train"])


def run(package: str, training: Training, callbacks: list[Any], **module_kwargs: Any) -> Run:
    torch.manual_seed(5)
    module_class = LightningNet if (package, training.module_class) == (PACKAGES[1], Net) else training.module_class
    return train(
        module_class(**{**training.module, **module_kwargs}),
        [*callbacks, *training.callbacks()],
        training.loader(),
        val_loader=VALIDATION,
        trainer_class=importlib.import_module(package).Trainer,
        **training.options("cpu"),
    )


@pytest.mark.parametrize(("member", "training"), IDLE)
def test_an_idle_callback_changes_nothing_in_the_other_package(member: Member, training: Training) -> None:
    if training.name in member.refuses:
        with pytest.raises(lightning.pytorch.utilities.exceptions.MisconfigurationException):
            run(PACKAGES[1], training, [member.idle()])
        return
    if training.name not in _WITHOUT:
        _WITHOUT[training.name] = run(PACKAGES[1], training, [])
    assert_same_training(run(PACKAGES[1], training, [member.idle()]), _WITHOUT[training.name])


@rows
@pytest.mark.parametrize("member", [m for m in OURS if m.active], ids=lambda member: member.name)
def test_an_active_callback_finds_the_same_in_both(member: Member, training: Training) -> None:
    """The same value, and the training that follows is that of the other package with the value set by hand."""
    assert member.active is not None
    assert member.applied is not None
    callbacks = {package: member.active() for package in PACKAGES}
    runs = {package: run(package, training, [callback]) for package, callback in callbacks.items()}
    assert_same_training(*runs.values())
    callback = callbacks[PACKAGES[1]]
    assert None not in member.applied(callback).values()
    with batch_size_by_hand(member.applied_batch_size(callback)):
        by_hand = run(PACKAGES[0], training, [], **member.applied(callback))
    assert_same_training(runs[PACKAGES[1]], by_hand)


# ------------------------------------------------------------------------------------------------------ LightningCLI


def cli_of(package: str, model: Any, *args: str, add: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    """LightningCLI of a package with our data, as a user runs it."""
    pl = importlib.import_module(package)

    class Data(pl.LightningDataModule):
        def __init__(self, batch_size: int = 16) -> None:
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self) -> DataLoader:
            return DataLoader(_Pairs(), self.hparams.batch_size, shuffle=True)

        def val_dataloader(self) -> DataLoader:
            return DataLoader(_Pairs(), 16)

    class CLI(importlib.import_module(f"{package}.cli").LightningCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            for name, kind in (add or {}).items():
                parser.add_lightning_class_args(kind, name)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return CLI(
        model,
        Data,
        args=["fit", *args],
        save_config_callback=None,
        seed_everything_default=3,
        trainer_defaults={"max_epochs": 1, "devices": 1, "enable_model_summary": False, **quiet},
        **kwargs,
    )


class _Pairs(Samples):
    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)[:2]


def of_kind(cli: Any, kind: type) -> Any:
    (found,) = [callback for callback in cli.trainer.callbacks if isinstance(callback, kind)]
    return found


class Small(Classifier):
    """A Classifier that a command line can build without a download."""

    def __init__(self, width: int = 8, lr: float = 0.01, find_lr: bool = False) -> None:
        body = torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.ReLU())
        super().__init__(body, 3, lr=lr, find_lr=find_lr)


@packages
def test_cli_builds_all_callbacks_from_yaml(package: str, tmp_path: Any) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        """
trainer:
  callbacks:
    - class_path: lightning_hp.BatchSizeScaler
      init_args: {max_val: 32, limits: {min_steps_per_epoch: 1, min_training_steps: 1}}
    - class_path: lightning_hp.LRFinder
      init_args: {min_lr: 1.0e-4, num_training_steps: 30, num_repeats: 1, zoom: false}
    - class_path: lightning_hp.SAM
      init_args: {rho: 0.01}
    - class_path: lightning_hp.BackboneFreezing
      init_args: {unfreeze_at_epoch: 0}
model: {lr: 0.001}
"""
    )
    cli = cli_of(package, Small, f"--config={config}")
    assert all(of_kind(cli, kind) for kind in (BatchSizeScaler, LRFinder, SAM, BackboneFreezing))
    assert cli.model.lr == of_kind(cli, LRFinder).result.lr_used
    assert cli.datamodule.hparams.batch_size == of_kind(cli, BatchSizeScaler).optimal_batch_size


@packages
@pytest.mark.parametrize("name", ["lightning_hp.LRFinder", "LRFinder"])
@pytest.mark.parametrize("option", ["--trainer.callbacks", "--trainer.callbacks+"])
def test_cli_takes_a_callback_on_the_command_line(package: str, name: str, option: str) -> None:
    cli = cli_of(
        package, Small, f"{option}={name}", "--trainer.callbacks.num_training_steps=30",
        "--trainer.callbacks.num_repeats=1", "--trainer.callbacks.zoom=false",
    )  # fmt: skip
    result = of_kind(cli, LRFinder).result
    assert cli.model.lr == result.lr_used
    assert result.num_steps == 30


@packages
def test_cli_adds_our_classes_as_arguments(package: str) -> None:
    add = {"scaler": BatchSizeScaler, "finder": LRFinder, "sam": SAM, "freezing": BackboneFreezing}
    cli = cli_of(
        package, Small, "--finder.num_training_steps=30", "--finder.num_repeats=1", "--finder.zoom=false",
        "--sam.rho=0.2", "--scaler.update_attr=false", "--freezing.unfreeze_at_epoch=0", add=add,
    )  # fmt: skip
    assert all(of_kind(cli, kind) for kind in add.values())
    assert cli.model.lr == of_kind(cli, LRFinder).result.lr_used


@packages
def test_cli_builds_the_classifier_by_its_class_path(package: str) -> None:
    base = importlib.import_module(package).LightningModule
    cli = cli_of(
        package, base, f"--model={__name__}.Small", "--model.width=4", "--model.find_lr=true", subclass_mode_model=True
    )
    assert type(cli.model) is Small
    assert cli.model.lr == of_kind(cli, LRFinder).result.lr_used


@packages
def test_what_was_found_is_a_config_of_cli(package: str, tmp_path: Any) -> None:
    """The run that reads the files is the run that searched."""
    size = {"objective": "memory", "max_val": 32, "limits": {"min_steps_per_epoch": 1, "min_training_steps": 1}}
    rate = {"min_lr": 1e-4, "num_training_steps": 30, "num_repeats": 1, "zoom": False}
    searched = cli_of(
        package, Small, f"--scaler={json.dumps(size)}", f"--finder={json.dumps(rate)}",
        add={"scaler": BatchSizeScaler, "finder": LRFinder},
    )  # fmt: skip
    of_kind(searched, BatchSizeScaler).save_config(tmp_path / "size.yaml")
    of_kind(searched, LRFinder).save_config(tmp_path / "rate.yaml")
    read = cli_of(package, Small, f"--config={tmp_path}/size.yaml", f"--config={tmp_path}/rate.yaml")
    assert read.model.lr == searched.model.lr != 0.01
    assert read.datamodule.hparams.batch_size == searched.datamodule.hparams.batch_size != 16
    assert read.trainer.global_step == searched.trainer.global_step
    weights = [torch.nn.utils.parameters_to_vector(cli.model.parameters()) for cli in (searched, read)]
    assert torch.equal(*weights)


def test_a_config_of_a_class_path_has_init_args(tmp_path: Any) -> None:
    base = importlib.import_module(PACKAGES[0]).LightningModule
    model = [f"--model={__name__}.Small", "--model.width=4"]
    searched = cli_of(PACKAGES[0], base, *model, "--finder.num_repeats=1", add={"finder": LRFinder},
                      subclass_mode_model=True)  # fmt: skip
    of_kind(searched, LRFinder).save_config(tmp_path / "rate.yaml", subclass_mode_model=True)
    read = cli_of(PACKAGES[0], base, *model, f"--config={tmp_path}/rate.yaml", subclass_mode_model=True)
    assert read.model.lr == searched.model.lr != 0.01


def test_a_config_without_a_value_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="Expected values that a `fit` has set, but LRFinder has set none"):
        LRFinder().save_config(tmp_path / "rate.yaml")
    with pytest.raises(TypeError, match="Expected `path` to be a path"):
        LRFinder().save_config(3)

    class InOptimizer(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    callback = LRFinder(1e-4, 10.0, 70, num_repeats=1)
    train(InOptimizer(), [callback], loader(shuffle=True))
    assert callback.result is not None
    assert callback.result.suggestion
    with pytest.raises(ValueError, match="kept in the optimizers or the loaders alone"):
        callback.save_config(tmp_path / "rate.yaml")
    assert not list(tmp_path.iterdir())
