"""BackboneFreezing against loops written by hand, and the faults of Lightning's BackboneFinetuning that it avoids."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException as LightningMisconfiguration
from pytorch_lightning.callbacks import BackboneFinetuning
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from lightning_hp import SAM, Backbone, BackboneFreezing, BatchSizeScaler, ClassifierHead, LRFinder
from lightning_hp.rehearsal import is_rehearsal
from tests.callbacks.contract import loader, mixed_fp16
from tests.training import NUM_CLASSES, NUM_FEATURES, Samples, assert_identical, train

LR = 0.05
SETTINGS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=LR, momentum=0.9, weight_decay=0.01),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=LR, weight_decay=0.1),
}


def make_backbone() -> nn.Sequential:
    """Two stages with everything that a frozen part must not do: update statistics, drop out, decay."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Sequential(nn.Linear(NUM_FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3)),
        nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.3)),
    )


class Model(pl.LightningModule):
    """The random numbers of a step depend on its number only, so a loop by hand and a resumed run use the same ones."""

    def __init__(self, lr: float = LR, optimizer: str = "sgd", manual: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone, self.head = make_backbone(), nn.Linear(16, NUM_CLASSES)
        self.automatic_optimization = not manual
        self.trained: list[tuple[int, bool, int]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        torch.manual_seed(self.global_step)
        flags = [parameter.requires_grad for parameter in self.backbone.parameters()]
        self.trained.append((self.current_epoch, is_rehearsal(self.trainer), sum(flags)))
        loss = nn.functional.cross_entropy(self.head(self.backbone(batch[0].to(self.dtype))), batch[1])
        if not self.automatic_optimization:
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.optimizers().step()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.head(self.backbone(batch[0].to(self.dtype)))

    def configure_optimizers(self) -> Any:
        lr = self.hparams.lr
        groups = [{"params": [*self.backbone.parameters()], "lr": lr / 10}, {"params": [*self.head.parameters()]}]
        optimizer = SETTINGS[self.hparams.optimizer](groups)
        optimizer.param_groups[1]["lr"] = lr
        return optimizer


class Flags(pl.Callback):
    """Records after each step what is trained."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        parameters = [parameter.requires_grad for parameter in pl_module.backbone.parameters()]
        modules = [module.training for module in pl_module.backbone.modules()]
        self.seen.append((trainer.current_epoch, sum(parameters), sum(modules)))


def fit(callbacks: list[Any], module: Any = None, data: Any = None, **kwargs: Any) -> Any:
    return train(module or Model(), callbacks, data or loader(), **{"max_epochs": 4, **kwargs})


def by_hand(optimizer: str, epochs: int = 4, second: int = 1, first: int = 2) -> tuple[nn.Module, nn.Module]:
    """A loop without freezing: features without gradients, and a further optimizer for each stage."""
    backbone, head = make_backbone(), nn.Linear(16, NUM_CLASSES)
    optimizers = {2: SETTINGS[optimizer]([{"params": head.parameters()}])}
    step = 0
    for epoch in range(epochs):
        for stage, unfreeze_at in ((1, second), (0, first)):
            if epoch == unfreeze_at:
                optimizers[stage] = SETTINGS[optimizer]([{"params": backbone[stage].parameters(), "lr": LR / 10}])
        for features, labels, _ in loader():
            torch.manual_seed(step)
            for stage in (0, 1):
                backbone[stage].train(stage in optimizers)
                with torch.set_grad_enabled(stage in optimizers):
                    features = backbone[stage](features)
            for each in optimizers.values():
                each.zero_grad()
            nn.functional.cross_entropy(head(features), labels).backward()
            for each in optimizers.values():
                each.step()
            step += 1
    return backbone, head


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("optimizer", SETTINGS)
def test_equals_a_loop_by_hand(optimizer: str, manual: bool) -> None:
    freezing = BackboneFreezing(unfreeze_at_epoch=1, stages=2)
    run = fit([freezing], Model(optimizer=optimizer, manual=manual))
    backbone, head = by_hand(optimizer)
    assert_identical(dict(run.module.backbone.state_dict()), dict(backbone.state_dict()), "backbone")
    assert_identical(dict(run.module.head.state_dict()), dict(head.state_dict()), "head")


def by_hand_with_a_ramp(
    optimizer: str, ramp: float, epochs: int = 4, ratios: tuple[float, float] = (1.0, 1.0)
) -> tuple[nn.Module, nn.Module]:
    """The same, where the optimizer of each stage begins with a small rate and weight decay follows it."""
    backbone, head = make_backbone(), nn.Linear(16, NUM_CLASSES)
    optimizers = {2: SETTINGS[optimizer]([{"params": head.parameters()}])}
    step, num_batches = 0, len(loader())
    for epoch in range(epochs):
        for stage, unfreeze_at in ((1, 1), (0, 2)):
            if epoch == unfreeze_at:
                optimizers[stage] = SETTINGS[optimizer]([{"params": backbone[stage].parameters(), "lr": LR / 10}])
        for number, (features, labels, _) in enumerate(loader()):
            for stage in optimizers.keys() - {2}:
                share = (epoch - {1: 1, 0: 2}[stage] + (number + 1) / num_batches) / ramp if ramp else 1.0
                optimizers[stage].param_groups[0]["lr"] = LR / 10 * min(share, 1) * ratios[stage]
            torch.manual_seed(step)
            for stage in (0, 1):
                backbone[stage].train(stage in optimizers)
                with torch.set_grad_enabled(stage in optimizers):
                    features = backbone[stage](features)
            for each in optimizers.values():
                each.zero_grad()
            nn.functional.cross_entropy(head(features), labels).backward()
            for each in optimizers.values():
                each.step()
            step += 1
    return backbone, head


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize(("optimizer", "ramp"), [("sgd", 1.0), ("sgd", 0.4), ("adamw", 1.5)])
def test_a_rate_that_rises_equals_a_loop_by_hand(optimizer: str, ramp: float, manual: bool) -> None:
    """The stages share one parameter group, and rise at different times."""
    freezing = BackboneFreezing(unfreeze_at_epoch=1, stages=2, ramp_epochs=ramp)
    run = fit([freezing], Model(optimizer=optimizer, manual=manual))
    plain = fit([BackboneFreezing(unfreeze_at_epoch=1, stages=2)], Model(optimizer=optimizer, manual=manual))
    backbone, head = by_hand_with_a_ramp(optimizer, ramp)
    weights = {**backbone.state_dict(prefix="backbone."), **head.state_dict(prefix="head.")}
    for name, value in weights.items():
        # A bias before a batch norm has no gradient but rounding, which AdamW scales up.
        if not name.endswith(("0.0.bias", "1.0.bias", "running_mean")):
            torch.testing.assert_close({**run.weights, **run.buffers}[name], value)
    assert not torch.allclose(run.module.head.weight, plain.module.head.weight)
    assert run.trainer.optimizers[0].param_groups[0]["lr"] == LR / 10
    assert not run.trainer.optimizers[0]._optimizer_step_pre_hooks


@pytest.mark.parametrize(
    ("ratio", "ratios", "ramp"),
    [(0.3, (0.3, 0.3), 0.0), ({2: 0.1}, (0.1, 1.0), 0.0), ({1: 0.5, 2: 0.2}, (0.2, 0.5), 1.5)],
)
def test_a_rate_for_each_unfreezing_equals_a_loop_by_hand(ratio: Any, ratios: tuple[float, float], ramp: float) -> None:
    run = fit([BackboneFreezing(unfreeze_at_epoch=1, stages=2, ramp_epochs=ramp, lr_ratio=ratio)])
    backbone, head = by_hand_with_a_ramp("sgd", ramp, ratios=ratios)
    weights = {**backbone.state_dict(prefix="backbone."), **head.state_dict(prefix="head.")}
    for name, value in weights.items():
        if not name.endswith(("0.0.bias", "1.0.bias", "running_mean")):  # as above
            torch.testing.assert_close({**run.weights, **run.buffers}[name], value)
    assert run.trainer.optimizers[0].param_groups[0]["lr"] == LR / 10


def test_a_rate_for_an_epoch_without_an_unfreezing_is_refused() -> None:
    for ratio in ({3: 0.1}, {1: 0.5, 3: 0.1}):
        with pytest.raises(
            MisconfigurationException, match=r"`lr_ratio` for epochs of an unfreezing \(1, 2\), but got"
        ):
            fit([BackboneFreezing(unfreeze_at_epoch=1, stages=2, lr_ratio=ratio)])


def test_two_of_them_freeze_two_parts() -> None:
    """One with a dict does the same."""
    expected = fit([BackboneFreezing(unfreeze_at_epoch={1: "1", 2: "0"}, backbone="backbone")])
    two = [BackboneFreezing(2, "backbone.0"), BackboneFreezing(1, "backbone.1")]
    run = fit(two)
    assert_identical(run.weights, expected.weights, "weights")
    assert_identical(run.buffers, expected.buffers, "buffers")
    assert run.module.trained == expected.module.trained
    assert all(parameter.requires_grad for parameter in run.module.parameters())


def test_two_of_them_on_one_part_are_refused() -> None:
    for second in (BackboneFreezing(2), BackboneFreezing(2, "backbone.0")):
        with pytest.raises(MisconfigurationException, match=r"backbone\.0\.0\.weight is in two, of `backbone`.*dict"):
            fit([BackboneFreezing(), second])
    with pytest.raises(MisconfigurationException, match="while `backbone` and `head` are frozen, but got nothing"):
        fit([BackboneFreezing(1), BackboneFreezing(2, "head")])


def test_a_ramp_needs_epochs_of_a_known_length() -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            yield from Samples(32)

    data = DataLoader(Stream(), batch_size=8)
    with pytest.raises(MisconfigurationException, match="expected epochs of a known length for `ramp_epochs`"):
        train(Model(), [BackboneFreezing(ramp_epochs=1)], data, max_epochs=1)
    train(Model(), [BackboneFreezing(ramp_epochs=1)], data, max_epochs=2, limit_train_batches=3)


def test_parts_that_are_named_are_frozen_and_the_others_are_trained() -> None:
    expected = fit([BackboneFreezing(unfreeze_at_epoch={0: "1", 2: "0"})])
    run = fit([BackboneFreezing(unfreeze_at_epoch=2, frozen="0")])
    assert_identical(run.weights, expected.weights, "weights")
    never = fit([BackboneFreezing(unfreeze_at_epoch=None, frozen=["0.*"])])
    start = make_backbone()[0]
    assert_identical(dict(never.module.backbone[0].state_dict()), dict(start.state_dict()), "frozen")
    assert not torch.equal(never.module.backbone[1][0].weight, make_backbone()[1][0].weight)
    with pytest.raises(MisconfigurationException, match=r"Expected names inside the backbone .* but got 'layer1'"):
        fit([BackboneFreezing(frozen="layer1")])


@pytest.mark.parametrize("optimizer", SETTINGS)
def test_a_loop_without_a_trainer_equals_fit(optimizer: str) -> None:
    run = fit([BackboneFreezing(unfreeze_at_epoch=1, stages=2)], Model(optimizer=optimizer))
    torch.manual_seed(1)
    model, freezing = Model(optimizer=optimizer), BackboneFreezing(unfreeze_at_epoch=1, stages=2)
    optimizers, step = model.configure_optimizers(), 0
    for epoch in range(4):
        model.train()
        freezing.freeze(model, epoch)
        for features, labels, _ in loader():
            torch.manual_seed(step)
            optimizers.zero_grad()
            nn.functional.cross_entropy(model.head(model.backbone(features)), labels).backward()
            optimizers.step()
            step += 1
    freezing.unfreeze()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert_identical(dict(model.backbone.state_dict()), dict(run.module.backbone.state_dict()), "backbone")
    assert_identical(dict(model.head.state_dict()), dict(run.module.head.state_dict()), "head")


def test_what_was_frozen_by_hand_is_unfrozen_by_fit() -> None:
    model, freezing = Model(), BackboneFreezing(unfreeze_at_epoch=1)
    freezing.freeze(model)
    run = fit([freezing], model)
    expected = fit([BackboneFreezing(unfreeze_at_epoch=1)])
    assert_identical(run.weights, expected.weights, "weights")


def test_freezing_without_a_trainer_is_refused_with_a_sentence() -> None:
    for callback, module, epoch, error, message in [
        (BackboneFreezing(), nn.Linear(2, 2), 0, ValueError, "expected a submodule `backbone` in Linear"),
        (BackboneFreezing(stages=9), Model(), 0, ValueError, "Expected `stages` <= "),
        (BackboneFreezing(ramp_epochs=1), Model(), 0, ValueError, "Expected `ramp_epochs` to be 0 without a Trainer"),
        (BackboneFreezing(lr_ratio=0.1), Model(), 0, ValueError, "Expected `lr_ratio` to be 1 without a Trainer"),
        (BackboneFreezing(), Model, 0, TypeError, "Expected `module` to be a module"),
        (BackboneFreezing(), Model(), -1, ValueError, "Expected `epoch` to be an int >= 0"),
    ]:
        with pytest.raises(error, match=message):
            callback.freeze(module, epoch)


def test_names_give_the_same_as_stages() -> None:
    plans = [{1: "1", 2: "0"}, {1: ["1.0", "1.1.*"], 2: ["*"]}]
    runs = [fit([BackboneFreezing(unfreeze_at_epoch=plan)]) for plan in plans]
    expected = fit([BackboneFreezing(unfreeze_at_epoch=1, stages=2)])
    for run in runs:
        assert_identical(run.weights, expected.weights, "weights")


def test_what_is_never_unfrozen_does_not_change() -> None:
    start = copy.deepcopy(dict(make_backbone().state_dict()))
    run = fit([BackboneFreezing(unfreeze_at_epoch=None)])
    assert_identical(dict(run.module.backbone.state_dict()), start, "backbone")
    run = fit([BackboneFreezing(unfreeze_at_epoch={1: "1"})])
    after = run.module.backbone.state_dict()
    same = {name for name in start if torch.equal(after[name], start[name])}
    assert same == {name for name in start if name.startswith("0.")}


class Images(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = Backbone(resnet18(num_classes=10))
        self.head = ClassifierHead(self.backbone.feature_dim, 3, n_hidden_layers=0)
        self.features: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        features = self.backbone(batch[0])
        if batch_idx == 0:
            self.backbone.eval()
            self.features += [features, self.backbone(batch[0])]
            self.backbone.train()
        return nn.functional.cross_entropy(self.head(features), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.head(self.backbone(batch[0]))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def images() -> DataLoader:
    torch.manual_seed(1)
    return DataLoader(TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 3), batch_size=4)


def changed(run: Any, start: dict[str, Tensor]) -> int:
    after = run.module.backbone.state_dict()
    return sum(not torch.equal(after[name], start[name]) for name in start)


def test_a_frozen_resnet_does_not_change_while_lightnings_callback_changes_100_of_120_tensors() -> None:
    start = copy.deepcopy(dict(Images().backbone.state_dict()))
    assert len(start) == 120
    run = fit([BackboneFreezing()], Images(), images(), max_epochs=1, val_loader=images())
    assert changed(run, start) == 0
    # The head is trained on the features that it is evaluated on.
    assert torch.equal(*run.module.features)
    assert not run.module.features[0].requires_grad
    # The optimizer holds all parameters, and has state for the head only.
    (optimizer,) = run.trainer.optimizers
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len([*run.module.parameters()])
    assert {*optimizer.state} == {*run.module.head.parameters()}
    peer = fit([BackboneFinetuning()], Images(), images(), max_epochs=1, val_loader=images())
    assert changed(peer, start) == 100


def test_norm_layers_are_trained_with_train_norm() -> None:
    start = copy.deepcopy(dict(Images().backbone.state_dict()))
    run = fit([BackboneFreezing(train_norm=True)], Images(), images(), max_epochs=1, val_loader=images())
    assert changed(run, start) == 100
    conv = "model.layer4.1.conv2.weight"
    assert torch.equal(run.module.backbone.state_dict()[conv], start[conv])


class CallsTrain(Model):
    """Calls `train()` in the hooks in which users do."""

    def on_train_start(self) -> None:
        self.train()

    def on_train_epoch_start(self) -> None:
        self.train()

    def on_validation_model_train(self) -> None:
        self.train()

    def on_validation_end(self) -> None:
        self.train()


def test_calls_of_train_do_not_change_frozen_modules() -> None:
    start = copy.deepcopy(dict(make_backbone().state_dict()))
    run = fit([BackboneFreezing(unfreeze_at_epoch=9)], CallsTrain(), val_check_interval=1)
    assert_identical(dict(run.module.backbone.state_dict()), start, "backbone")


def test_optimizer_state_is_created_at_the_unfreezing() -> None:
    class States(pl.Callback):
        steps: list[list[float]] = []  # noqa: RUF012

        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
            state = trainer.optimizers[0].state
            self.steps.append([float(state[p]["step"]) if p in state else -1 for p in pl_module.parameters()])

    states = States()
    fit([BackboneFreezing(unfreeze_at_epoch=1, stages=2), states], Model(optimizer="adamw"), max_epochs=3)
    # Six steps per epoch; four parameters in each stage, two in the head.
    lower, upper, head = [-1, -1, 6], [-1, 6, 12], [6, 12, 18]
    expected = [[lower[e]] * 4 + [upper[e]] * 4 + [head[e]] * 2 for e in range(3)]
    assert states.steps == expected


class SaveEachEpoch(pl.Callback):
    """At the end of the epoch, or after its validation: the two hooks in which Lightning saves checkpoints."""

    def __init__(self, folder: Path, hook: str = "on_train_epoch_end") -> None:
        self.folder = folder
        setattr(self, hook, self.save)

    def save(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_validation_end"])
@pytest.mark.parametrize(("optimizer", "ramp_epochs"), [("sgd", 0.0), ("adamw", 0.0), ("sgd", 1.5)])
def test_a_resumed_run_equals_the_uninterrupted_one(
    optimizer: str, ramp_epochs: float, hook: str, tmp_path: Path
) -> None:
    """Resumed before, at and after each unfreezing. Lightning's callback freezes everything again (its issue 21901)."""
    freezing = {"unfreeze_at_epoch": 1, "stages": 2, "epochs_per_stage": 2, "ramp_epochs": ramp_epochs}
    flags = Flags()
    whole = fit(
        [BackboneFreezing(**freezing), SaveEachEpoch(tmp_path, hook), flags], Model(optimizer=optimizer), max_epochs=5
    )
    assert {entry[1:] for entry in flags.seen if entry[0] == 4} == {(8, 11)}
    for epoch in range(4):
        again = Flags()
        path = tmp_path / f"{epoch}.ckpt"
        assert "BackboneFreezing" not in torch.load(path, weights_only=False)["callbacks"]
        resumed = fit([BackboneFreezing(**freezing), again], Model(optimizer=optimizer), max_epochs=5, ckpt_path=path)
        assert_identical(resumed.weights, whole.weights, "weights")
        assert_identical(resumed.optimizer, whole.optimizer, "optimizer")
        assert again.seen == [entry for entry in flags.seen if entry[0] > epoch]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_run_resumed_in_the_middle_of_an_epoch_is_in_its_phase(tmp_path: Path) -> None:
    class SaveOnce(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
            if trainer.global_step == 9:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    for unfreeze_at, trained in ((1, 8), (2, 0)):
        fit([BackboneFreezing(unfreeze_at), SaveOnce()], max_epochs=2)
        flags = Flags()
        fit([BackboneFreezing(unfreeze_at), flags], max_epochs=2, ckpt_path=tmp_path / "middle.ckpt")
        assert {entry[:2] for entry in flags.seen} == {(1, trained)}


def test_the_settings_override_the_checkpoint(tmp_path: Path) -> None:
    fit([BackboneFreezing(unfreeze_at_epoch=9), SaveEachEpoch(tmp_path)], max_epochs=1)
    flags = Flags()
    fit([BackboneFreezing(unfreeze_at_epoch=1), flags], max_epochs=2, ckpt_path=tmp_path / "0.ckpt")
    assert {entry[:2] for entry in flags.seen} == {(1, 8)}


@pytest.mark.filterwarnings("ignore:Found 1 module")
def test_what_the_user_froze_stays_frozen_and_all_flags_are_restored() -> None:
    module = Model()
    module.backbone[0][0].requires_grad_(False)
    module.backbone[1][3].eval()
    flags = Flags()
    fit([BackboneFreezing(unfreeze_at_epoch=2), flags], module)
    assert set(flags.seen) == {(0, 0, 0), (1, 0, 0), (2, 6, 10), (3, 6, 10)}
    run = fit([BackboneFreezing(unfreeze_at_epoch=9)], module)
    assert sum(parameter.requires_grad for parameter in module.backbone.parameters()) == 6
    assert [child.training for child in module.backbone[1]] == [True, True, True, False]
    assert run.module is module


def test_after_an_exception_the_flags_are_restored_and_a_second_fit_trains() -> None:
    class Fails(Model):
        is_broken = True

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if self.is_broken and self.global_step == 3:
                raise KeyError("a bug")
            return super().training_step(batch, batch_idx)

    module, freezing = Fails(), BackboneFreezing(unfreeze_at_epoch=1)
    with pytest.raises(KeyError, match="a bug"):
        fit([freezing], module)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(child.training for child in module.modules())
    module.is_broken = False
    flags = Flags()
    fit([freezing, flags], module, max_epochs=2)
    assert {entry[:2] for entry in flags.seen} == {(0, 0), (1, 8)}


def test_a_second_fit_of_the_same_trainer_continues() -> None:
    module, flags = Model(), Flags()
    run = fit([BackboneFreezing(unfreeze_at_epoch=2), flags], module, max_epochs=1)
    run.trainer.fit_loop.max_epochs = 3
    run.trainer.fit(module, loader(), loader())
    assert {entry[:2] for entry in flags.seen} == {(0, 0), (1, 0), (2, 8)}


def test_parameters_with_equal_values_are_distinguished() -> None:
    """Lightning's `filter_on_optimizer` compares values: a new batch norm in the head hides those of the backbone."""

    class Twins(Model):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, NUM_CLASSES))

    run = fit([BackboneFreezing(unfreeze_at_epoch=1)], Twins(), max_epochs=2)
    start = dict(make_backbone().state_dict())
    assert changed(run, start) == len(start)


class OnlyTheHead(Model):
    """Its optimizer holds a copy of the backbone with equal values, and not the backbone."""

    def configure_optimizers(self) -> Any:
        self.twin = copy.deepcopy(self.backbone)
        return torch.optim.SGD([*self.head.parameters(), *self.twin.parameters()], lr=LR)


class Filtered(Model):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=LR, weight_decay=0.1)


def test_an_optimizer_without_the_backbone_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match=r"8 of 8 are in none \(backbone.0.0.weight"):
        fit([BackboneFreezing()], OnlyTheHead())
    fit([BackboneFreezing(unfreeze_at_epoch=None)], OnlyTheHead(), max_epochs=1)
    # A filter by `requires_grad` keeps all parameters: nothing is frozen before the optimizers are built.
    run = fit([BackboneFreezing()], Filtered(), max_epochs=2)
    assert changed(run, dict(make_backbone().state_dict())) == len(make_backbone().state_dict())


class Lazy(Model):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.LazyLinear(16)


class Everything(Model):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(self.backbone, self.head)
        self.head = nn.Identity()


class Frozen(Model):
    def __init__(self) -> None:
        super().__init__()
        self.backbone.requires_grad_(False)


class NoParameters(Model):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Flatten()


class OtherName(Model):
    def __init__(self) -> None:
        super().__init__()
        self.body = self.backbone
        del self.backbone

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=LR)


@pytest.mark.parametrize(
    ("module_class", "kwargs", "message"),
    [
        (OtherName, {}, "expected a submodule `backbone` in OtherName, but got none.*are head, body"),
        (Model, {"backbone": "bakcbone"}, "expected a submodule `bakcbone` in Model, but got none"),
        (Lazy, {}, "uninitialized lazy ones: backbone.weight"),
        (Everything, {}, "expected something to train while `backbone` is frozen"),
        (Frozen, {}, "require a gradient, but got only frozen ones"),
        (NoParameters, {}, "require a gradient, but got none"),
        (Model, {"stages": 5}, "`backbone`: Expected `stages` <= 2"),
        (Model, {"unfreeze_at_epoch": {1: "layer4"}}, r"Expected names inside the backbone \(0, 1\), but got 'layer4'"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_unsupported_models_are_refused(module_class: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fit([BackboneFreezing(**kwargs)], module_class(), limit_val_batches=0)


def test_unsupported_strategies_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class DeepSpeedStrategy:
        """A strategy that is not supported."""

    trainer = pl.Trainer(accelerator="cpu", barebones=True)
    monkeypatch.setattr(pl.Trainer, "strategy", DeepSpeedStrategy())
    with pytest.raises(MisconfigurationException, match=r"got DeepSpeedStrategy\. Train under one of these"):
        BackboneFreezing().on_fit_start(trainer, Model())


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"unfreeze_at_epoch": -1}, ValueError),
        ({"unfreeze_at_epoch": True}, TypeError),
        ({"unfreeze_at_epoch": 1.5}, TypeError),
        ({"unfreeze_at_epoch": "1"}, TypeError),
        ({"unfreeze_at_epoch": {}}, ValueError),
        ({"unfreeze_at_epoch": {-1: "a"}}, ValueError),
        ({"unfreeze_at_epoch": {"1": "a"}}, TypeError),
        ({"unfreeze_at_epoch": {1: 3}}, TypeError),
        ({"unfreeze_at_epoch": {1: ["a", None]}}, TypeError),
        ({"unfreeze_at_epoch": {1: []}}, ValueError),
        ({"unfreeze_at_epoch": {1: "a", 2: ()}}, ValueError),
        ({"unfreeze_at_epoch": {1: "a"}, "stages": 2}, ValueError),
        ({"frozen": []}, ValueError),
        ({"frozen": 3}, TypeError),
        ({"frozen": "a", "unfreeze_at_epoch": {1: "a"}}, ValueError),
        ({"ramp_epochs": -1}, ValueError),
        ({"ramp_epochs": "1"}, TypeError),
        ({"ramp_epochs": 1, "unfreeze_at_epoch": None}, ValueError),
        ({"lr_ratio": 0}, ValueError),
        ({"lr_ratio": 1.5}, ValueError),
        ({"lr_ratio": {}}, ValueError),
        ({"lr_ratio": {1: "0.1"}}, TypeError),
        ({"lr_ratio": {"1": 0.1}}, TypeError),
        ({"lr_ratio": 0.5, "unfreeze_at_epoch": None}, ValueError),
        ({"unfreeze_at_epoch": None, "stages": 2}, ValueError),
        ({"backbone": ""}, ValueError),
        ({"backbone": None}, TypeError),
        ({"stages": 0}, ValueError),
        ({"stages": 2.0}, TypeError),
        ({"epochs_per_stage": 0}, ValueError),
        ({"epochs_per_stage": True}, TypeError),
        ({"train_norm": "yes"}, TypeError),
        ({"train_norm": 1}, TypeError),
    ],
)
def test_arguments_out_of_range_are_refused(kwargs: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"Expected `{next(iter(kwargs))}`"):
        BackboneFreezing(**kwargs)


def test_numpy_numbers_are_accepted() -> None:
    fit([BackboneFreezing(np.int64(1), "backbone", np.int32(2), np.int8(3), np.bool_(False))], max_epochs=1)
    fit([BackboneFreezing({np.int64(1): ("1", "0")})], max_epochs=1)


def _finder(**kwargs: Any) -> LRFinder:
    return LRFinder(**{"min_lr": 1e-4, "num_training_steps": 70, "num_repeats": 3, "zoom": False, **kwargs})


def test_the_finder_tunes_for_the_current_phase() -> None:
    """It suggests the same learning rate as if the user had frozen by hand, and it is used in each group."""

    class ByHand(Model):
        def on_fit_start(self) -> None:
            self.backbone.requires_grad_(False)

        def on_train_start(self) -> None:
            self.backbone.eval()

    finder, expected = _finder(), _finder()
    found = fit([finder, BackboneFreezing(unfreeze_at_epoch=9)], max_epochs=1, data=loader(shuffle=True))
    by_hand = fit([expected], ByHand(), max_epochs=1, data=loader(shuffle=True))
    assert finder.optimal_lr == expected.optimal_lr is not None
    assert_identical(found.weights, by_hand.weights, "weights")
    assert [g["lr"] for g in found.trainer.optimizers[0].param_groups] == [finder.optimal_lr / 10, finder.optimal_lr]


@pytest.mark.filterwarnings("ignore:LRFinder. the learning rate stays")
@pytest.mark.parametrize("finder_first", [True, False])
def test_the_finder_searches_again_when_the_backbone_is_unfrozen(finder_first: bool) -> None:
    finder, freezing, module = _finder(milestones=(0, 2)), BackboneFreezing(unfreeze_at_epoch=2), Model()
    callbacks = [finder, freezing] if finder_first else [freezing, finder]
    run = fit([*callbacks, Recorder(notes := [])], module, max_epochs=3)
    # The first search goes through the epochs before the second one.
    assert {note for note in notes if note[0]} == {(True, 0, 0), (True, 1, 0), (True, 2, 8)}
    # What a rehearsal wrote into the module was restored, so these are the steps of the training.
    assert set(module.trained) == {(0, False, 0), (1, False, 0), (2, False, 8)}
    assert finder.result is not None
    first, second = (group["lr"] for group in run.trainer.optimizers[0].param_groups)
    assert second == pytest.approx(10 * first)


@pytest.mark.filterwarnings("ignore:LRFinder. the learning rate stays")
def test_a_finder_leaves_no_trace_in_a_rate_that_rises() -> None:
    expected = fit([BackboneFreezing(ramp_epochs=1.5)], max_epochs=3)
    finder = _finder(milestones=(0, 1), update_attr=False, num_repeats=1, num_training_steps=30)
    run = fit([finder, BackboneFreezing(ramp_epochs=1.5)], max_epochs=3)
    assert_identical(run.weights, expected.weights, "weights")
    assert_identical(run.optimizer, expected.optimizer, "optimizer")


class Recorder(pl.Callback):
    """Acts in rehearsals and records outside the state that a rehearsal restores."""

    changes_gradients = True

    def __init__(self, notes: Any) -> None:
        self.write = notes.append

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        trained = sum(parameter.requires_grad for parameter in pl_module.backbone.parameters())
        self.write((is_rehearsal(trainer), trainer.current_epoch, trained))


@pytest.mark.parametrize(("max_epochs", "heaviest"), [(1, 0), (2, 4), (3, 8), (-1, 8)])
def test_the_batch_size_is_tuned_for_the_heaviest_phase_and_the_learning_rate_for_the_first(
    max_epochs: int, heaviest: int
) -> None:
    notes: list[Any] = []
    few = {"min_per_class": 0, "max_val": 16, "limits": {"min_steps_per_epoch": 1, "min_training_steps": 1}}
    scaler = BatchSizeScaler(**few, update_attr=False)
    freezing = BackboneFreezing(unfreeze_at_epoch=1, stages=2)
    fit([scaler, freezing, Recorder(notes)], max_epochs=max_epochs, max_steps=18)
    assert {note for note in notes if note[0]} == {(True, 0, heaviest)}
    assert {note for note in notes if not note[0]} == {(False, e, 4 * e) for e in range(3) if e < max_epochs % 4}
    notes.clear()
    fit([_finder(update_attr=False), freezing, Recorder(notes)], max_epochs=1)
    assert set(notes) == {(True, 0, 0), (False, 0, 0)}


def test_sam_perturbs_only_what_is_trained() -> None:
    start = copy.deepcopy(dict(make_backbone().state_dict()))
    for callbacks in ([BackboneFreezing(1), SAM(rho=0.1)], [SAM(rho=0.1), BackboneFreezing(1)]):
        run = fit(callbacks, max_epochs=1)
        assert changed(run, start) == 0
        without_sam = fit([BackboneFreezing(1)], max_epochs=1)
        assert not torch.equal(run.weights["head.weight"], without_sam.weights["head.weight"])
        assert changed(fit(callbacks, max_epochs=2), start) == len(start)


@pytest.mark.parametrize(
    "trainer", [mixed_fp16, lambda: {"precision": "bf16-mixed", "accumulate_grad_batches": 4}], ids=["fp16", "bf16"]
)
def test_other_precisions_and_accumulation(trainer: Any) -> None:
    start = copy.deepcopy(dict(make_backbone().state_dict()))
    assert changed(fit([BackboneFreezing(1)], max_epochs=1, **trainer()), start) == 0
    assert changed(fit([BackboneFreezing(1)], max_epochs=2, **trainer()), start) == len(start)


class TwoOptimizers(Model):
    """Toggles its optimizers, which sets and resets `requires_grad` of all parameters."""

    def __init__(self) -> None:
        super().__init__(manual=True)
        self.other = nn.Linear(16, NUM_CLASSES)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer, head in zip(self.optimizers(), (self.head, self.other), strict=True):
            self.toggle_optimizer(optimizer)
            loss = nn.functional.cross_entropy(head(self.backbone(batch[0])), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        first = [*self.backbone.parameters(), *self.head.parameters()]
        return [torch.optim.AdamW(first, lr=LR), torch.optim.AdamW(self.other.parameters(), lr=LR)]


def test_toggled_optimizers_do_not_unfreeze() -> None:
    start = copy.deepcopy(dict(make_backbone().state_dict()))
    assert changed(fit([BackboneFreezing(1)], TwoOptimizers(), max_epochs=1), start) == 0
    assert changed(fit([BackboneFreezing(1)], TwoOptimizers(), max_epochs=2), start) == len(start)


@pytest.mark.filterwarnings("ignore:LRFinder. the learning rate stays")
def test_trained_and_frozen_parameters_are_printed_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = TensorBoardLogger(tmp_path)
    with caplog.at_level("INFO"):
        fit([_finder(), BackboneFreezing(1, stages=2, epochs_per_stage=8)], max_epochs=3, logger=logger)
    printed = [record.message for record in caplog.records if record.message.startswith("BackboneFreezing")]
    head, upper, lower = 16 * 3 + 3, 16 * 17 + 32, 8 * 16 + 16 + 32
    first, second = printed
    counts = f"from epoch 0 {head} parameters are trained, {upper + lower} are frozen"
    assert first == f"BackboneFreezing: {counts}; the next change is at epoch 1."
    counts = f"from epoch 1 {head + upper} parameters are trained, {lower} are frozen"
    assert second == f"BackboneFreezing: {counts}; the change at epoch 9 comes after the end of this training."
    events = EventAccumulator(str(logger.log_dir)).Reload()
    scalars = events.Scalars("backbone_freezing/trained_parameters")
    assert [(event.step, event.value) for event in scalars] == [(0, head), (6, head + upper)]
    frozen = events.Scalars("backbone_freezing/frozen_parameters")
    assert [event.value for event in frozen] == [upper + lower, lower]


def test_copies_and_pickles_hold_only_the_settings() -> None:
    class Copies(pl.Callback):
        copies: list[Any] = []  # noqa: RUF012

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
            own = trainer.callbacks[0]
            self.copies[:] = [copy.deepcopy(own), pickle.loads(pickle.dumps(own))]

    expected = fit([BackboneFreezing(1, stages=2), copies := Copies()], max_epochs=3)
    assert all(isinstance(copied, BackboneFreezing) for copied in copies.copies)
    for copied in copies.copies:
        assert copied.state_dict() == {}
        assert len(pickle.dumps(copied)) < 1000
        assert_identical(fit([copied], max_epochs=3).weights, expected.weights, "weights")


def test_validate_changes_nothing() -> None:
    module, trainer = Model(), pl.Trainer(callbacks=[BackboneFreezing()], accelerator="cpu", barebones=True)
    trainer.validate(module, loader(), verbose=False)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_it_works_in_the_other_namespace() -> None:
    class Other(lightning.pytorch.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = make_backbone(), nn.Linear(16, NUM_CLASSES)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            torch.manual_seed(self.global_step)
            return nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

        def configure_optimizers(self) -> Any:
            head = {"params": self.head.parameters()}
            return SETTINGS["sgd"]([{"params": self.backbone.parameters(), "lr": LR / 10}, head])

    def run(freezing: BackboneFreezing) -> Other:
        trainer = lightning.pytorch.Trainer(callbacks=[freezing], max_epochs=4, accelerator="cpu", barebones=True)
        trainer.fit(module := Other(), loader())
        return module

    backbone, _ = by_hand("sgd")
    got = run(BackboneFreezing(1, stages=2)).backbone
    assert_identical(dict(got.state_dict()), dict(backbone.state_dict()), "backbone")
    with pytest.raises(LightningMisconfiguration, match="expected a submodule `body`"):
        run(BackboneFreezing(backbone="body"))


class CliData(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(Samples(), batch_size=16)

    val_dataloader = train_dataloader


@pytest.mark.parametrize(
    ("yaml", "epochs"), [("{1: '1', 2: ['0.0', '0.1']}", [0, 4, 8]), ("1", [0, 8, 8]), ("null", [0, 0, 0])]
)
def test_lightning_cli_builds_it_from_yaml(
    yaml: str, epochs: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    config = tmp_path / "config.yaml"
    config.write_text(
        "seed_everything: 1\ntrainer:\n  accelerator: cpu\n  barebones: true\n  max_epochs: 3\n  callbacks:\n"
        "    - class_path: lightning_hp.BackboneFreezing\n      init_args:\n"
        f"        unfreeze_at_epoch: {yaml}\n        backbone: backbone\n"
    )
    cli = LightningCLI(Model, CliData, args=["fit", f"--config={config}"], save_config_callback=None)
    assert [(epoch, trained) for epoch, _, trained in cli.model.trained][::6] == list(enumerate(epochs))
