"""LRFinder as a user meets it. That every state is restored and that its value is used is in the contract suite."""

from __future__ import annotations

import copy
import logging
import math
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from lightning_hp import BatchSizeScaler, LearningRateResult, LRFinder
from tests.callbacks.contract import loader
from tests.training import MemoryLogger, Net, Run, Samples, assert_identical, assert_same_training, train


def finder(**kwargs: Any) -> LRFinder:
    return LRFinder(
        **{"min_lr": 1e-4, "max_lr": 10.0, "num_training_steps": 70, "num_repeats": 1, "zoom": False, **kwargs}
    )


def net(module_class: type[pl.LightningModule] = Net, **kwargs: Any) -> Any:
    """A module whose weights are always the same."""
    torch.manual_seed(5)
    return module_class(**kwargs)


def fit(callbacks: list[Callback], module: pl.LightningModule | None = None, **kwargs: Any) -> Run:
    return train(module or net(), callbacks, kwargs.pop("loader", None) or loader(shuffle=True), **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"min_lr": 0.0}, ValueError, "`min_lr` to be a finite number > 0, but got 0.0"),
        ({"min_lr": 1.0, "max_lr": 0.1}, ValueError, "`max_lr` to be a finite number > 1, but got 0.1"),
        ({"max_lr": float("inf")}, ValueError, "`max_lr` to be a finite number > 1e-07, but got inf"),
        ({"num_training_steps": 9}, ValueError, "`num_training_steps` to be an int >= 10, or None, but got 9"),
        ({"num_training_steps": 20.0}, TypeError, "`num_training_steps` to be an int >= 10, or None, but got 20.0"),
        ({"mode": "log"}, ValueError, "`mode` to be one of 'exponential', 'linear', but got 'log'"),
        ({"early_stop_threshold": 1.0}, ValueError, "to be a finite number > 1, or None, but got 1.0"),
        ({"early_stop_threshold": "4"}, TypeError, "`early_stop_threshold` to be a finite number > 1, or None"),
        ({"num_repeats": 0}, ValueError, "`num_repeats` to be an int from 1 to 1000, but got 0"),
        ({"suggestion": "best"}, ValueError, "`suggestion` to be one of 'auto', 'trainings', 'fall', "),
        ({"milestones": (-1,)}, ValueError, "`milestones[0]` to be an int >= 0, but got -1"),
        ({"milestones": 5}, TypeError, "`milestones` to be a sequence of epochs, ints >= 0, but got 5"),
        ({"min_lr": "1e-4"}, TypeError, "`min_lr` to be a finite number > 0, but got '1e-4'"),
        ({"zoom": "no"}, TypeError, "`zoom` to be True or False, but got 'no'"),
        ({"update_attr": "no"}, TypeError, "`update_attr` to be True or False, but got 'no'"),
        ({"attr_name": None}, TypeError, "`attr_name` to be a name"),
    ],
)
def test_bad_arguments_are_refused_at_construction(kwargs: dict[str, Any], error: type[Any], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        LRFinder(**kwargs)


def test_by_default_a_factor_of_ten_takes_14_steps() -> None:
    assert len(LRFinder()._settings.lrs) == 8 * 14
    assert len(LRFinder(min_lr=1e-4, max_lr=1.0)._settings.lrs) == 4 * 14


def test_it_finds_a_rate_that_trains_and_sets_it_in_every_place() -> None:
    class TwoHomes(Net):
        """`lr` and `hparams.lr`, as `save_hyperparameters` and an assignment make them."""

    module, callback = net(TwoHomes, lr=1e-5), finder()
    run = fit([callback], module, max_epochs=8)
    slow = fit([], net(lr=1e-5), max_epochs=8)
    assert callback.optimal_lr == callback.result.suggestion == callback.result.lr_used
    assert callback.result.lr_before == 1e-5
    assert module.lr == module.hparams.lr == module.hparams_initial.lr == callback.optimal_lr
    assert run.optimizer[0]["param_groups"][0]["lr"] == callback.optimal_lr
    last = [values["train_loss_epoch"] for _, values in run.metrics if "train_loss_epoch" in values][-1]
    assert last < 0.7 * [values["train_loss_epoch"] for _, values in slow.metrics if "train_loss_epoch" in values][-1]


def test_the_answer_does_not_depend_on_the_rate_that_was_there() -> None:
    """A peer's finder told the same loss of SGD and of AdamW: it read the noise of the smallest rates."""
    found = []
    for lr in (1e-6, 3.0):
        callback = finder()
        fit([callback], net(lr=lr))
        found.append(callback.optimal_lr)
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    sgd, adamw = finder(), finder()
    fit([sgd], net(lr=0.1))
    fit([adamw], net(lr=0.1, optimizer="adamw"))
    assert sgd.optimal_lr != adamw.optimal_lr


@pytest.mark.parametrize("rule", ["fall", "one_cycle", "steepest", "valley", "slide", "minimum", "half"])
def test_every_rule_is_computed_and_can_be_chosen(rule: Any) -> None:
    callback = finder(suggestion=rule)
    fit([callback], max_epochs=1)
    assert callback.result.rule == rule
    assert callback.optimal_lr == callback.result.rules[rule]
    assert set(callback.result.rules) == {"fall", "one_cycle", "steepest", "valley", "slide", "minimum", "half"}


def test_under_a_one_cycle_schedule_the_peak_is_suggested_and_becomes_the_peak() -> None:
    callback = finder()
    run = fit([callback], net(scheduler="one_cycle"))
    assert callback.result.rule == "one_cycle"
    assert run.optimizer[0]["param_groups"][0]["max_lr"] == callback.optimal_lr


resumes = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")


class NothingToLearn(Net):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) * 0 + self.head.bias.sum() * 0 + 1.0


def test_when_nothing_is_learned_the_users_rate_stays_and_one_warning_says_so() -> None:
    """A peer's debiasing turns a constant loss into a rise and suggests a rate."""
    callback = finder()
    with pytest.warns(UserWarning, match="LRFinder: the learning rate stays 0.05. The loss never fell") as warned:
        run = fit([callback], net(NothingToLearn))
    assert callback.optimal_lr is None
    assert callback.result.reason
    assert callback.result.lr_used == 0.05
    assert run.module.hparams.lr == 0.05
    assert sum(callback.result.reason in str(warning.message) for warning in warned) == 1
    assert_same_training(run, fit([], net(NothingToLearn)))


class NoisyLosses(Net):
    """Learns nothing, and its losses differ from batch to batch."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) * 0 + self.head.bias.sum() * 0 + batch[0].mean()


def test_a_rule_that_is_named_answers_where_the_curve_supports_no_rate() -> None:
    by_default, named = finder(update_attr=False), finder(suggestion="valley")
    with pytest.warns(UserWarning, match="the learning rate stays"):
        fit([by_default], net(NoisyLosses))
    run = fit([named], net(NoisyLosses))
    assert by_default.optimal_lr is None
    assert named.optimal_lr == named.result.rules["valley"] == run.module.lr > 0
    assert by_default.result.reason in named.result.note
    assert "The rule 'valley' was asked for; the curve itself supports no rate." in str(named.result)


class AnnealedByStep(Net):
    """Records the step that it sees, where no snapshot reaches."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        STEPS.append(self.trainer.global_step)
        return super().training_step(batch, batch_idx)


STEPS: list[int] = []


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.filterwarnings("ignore:LRFinder. the learning rate stays")
def test_every_sweep_starts_at_the_step_of_the_training(accumulate: int) -> None:
    STEPS.clear()
    callback = finder(
        suggestion="fall",
        num_training_steps=20,
        num_repeats=3,
        zoom=False,
        early_stop_threshold=None,
        update_attr=False,
    )
    fit([callback], net(AnnealedByStep), accumulate_grad_batches=accumulate, max_epochs=1)
    sweep = [batch // accumulate for batch in range(20 * accumulate)]
    assert STEPS[: 60 * accumulate] == 3 * sweep
    assert STEPS[60 * accumulate] == 0  # and so does the training


class RaisesOnNaN(Net):
    """As `torch.distributions` does."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if not torch.isfinite(self.head.weight).all():
            raise ValueError("Expected parameter loc to satisfy the constraint Real()")
        return super().training_step(batch, batch_idx) ** 2


def test_a_step_that_raises_since_the_weights_are_not_finite_ends_the_sweep() -> None:
    wide = {"max_lr": 1e12, "num_training_steps": 150, "early_stop_threshold": None, "zoom": False, "num_repeats": 2}
    callback = finder(**wide)
    run = fit([callback], net(RaisesOnNaN))
    losses = callback.result.losses
    assert all(math.isnan(sweep[-1]) and math.isfinite(sweep[0]) for sweep in losses)
    assert run.module.lr == callback.optimal_lr > 0


def test_an_error_with_finite_weights_ends_the_fit() -> None:
    class Broken(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if self.trainer.global_step == 5:
                raise ValueError("the user's own")
            return super().training_step(batch, batch_idx)

    callback = finder()
    with pytest.raises(ValueError, match="the user's own") as raised:
        fit([callback], net(Broken))
    if sys.version_info >= (3, 11):
        assert raised.value.__notes__ == [f"LRFinder was trying a learning rate of {callback._settings.lrs[5]:.3g}."]


def test_an_error_in_a_short_training_names_the_rate() -> None:
    class BrokenLater(Net):
        steps = 0

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            type(self).steps += 1
            if self.steps == 90:  # the sweep has 70 steps
                raise ValueError("the user's own")
            return super().training_step(batch, batch_idx)

    with pytest.raises(ValueError, match="the user's own") as raised:
        fit([finder(suggestion="trainings", budget=300)], net(BrokenLater))
    if sys.version_info >= (3, 11):
        (note,) = raised.value.__notes__
        assert re.fullmatch(r"LRFinder was trying a learning rate of [0-9.e-]+\.", note)


@pytest.mark.filterwarnings("ignore:LRFinder. the learning rate stays")
def test_data_with_nan_are_named_as_a_cause() -> None:
    class Broken(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step(batch, batch_idx) * (math.nan if self.trainer.global_step == 3 else 1.0)

    callback = finder()
    fit([callback], net(Broken))
    assert "Only 3 of 70 steps gave a finite loss, and at least 10 are needed: look for NaN in the data" in str(
        callback.result.reason
    )


def test_find_needs_a_training() -> None:
    for options in ({"fast_dev_run": True}, {"max_steps": 0, "max_epochs": 1}):
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)
        for callback in (finder(), BatchSizeScaler()):
            with pytest.raises(MisconfigurationException, match="Expected a training to rehearse, but there is none"):
                callback.find(trainer, net(), loader())


def test_the_loss_under_accumulation_is_the_loss() -> None:
    """A peer records the last micro-batch divided by their number."""
    alone, accumulated = finder(update_attr=False), finder(update_attr=False)
    fit([alone])
    fit([accumulated], accumulate_grad_batches=4)
    assert accumulated.result.losses[0][0] == pytest.approx(alone.result.losses[0][0], abs=0.2)


@pytest.mark.filterwarnings("ignore:LRFinder. the learning rate stays")
def test_the_sweep_starts_at_the_loss_of_the_untrained_model_and_is_exactly_the_rates() -> None:
    """Peers overshoot the end, double the first step, or debias the first losses to half of the truth."""
    seen: list[float] = []

    class Watches(Net):
        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            seen.append(args[2].param_groups[0]["lr"])
            super().optimizer_step(*args, **kwargs)

    callback = finder(min_lr=1e-6, max_lr=1e-2, update_attr=False)
    fit([callback], net(Watches), max_epochs=1)
    assert seen[:70] == list(callback.result.lrs)
    assert (seen[0], seen[69]) == (1e-6, 1e-2)
    module = fit([], net(lr=0.0), max_epochs=1)
    first = next(values["train_loss_step"] for _, values in module.metrics if "train_loss_step" in values)
    assert callback.result.losses[0][0] == pytest.approx(first, rel=1e-6)


def test_it_stops_soon_after_the_loss_explodes_and_keeps_what_it_saw() -> None:
    callback = finder(max_lr=1e6, num_training_steps=100)
    fit([callback], max_epochs=1)
    losses = callback.result.losses[0]
    reached = [loss for loss in losses if loss == loss]
    assert 40 < len(reached) < 95
    assert len(losses) == 100
    assert callback.optimal_lr < 10


def test_repeats_start_from_the_same_weights_over_other_batches() -> None:
    callback = finder(suggestion="fall", num_repeats=3, update_attr=False)
    fit([callback], net(dropout=0.2), max_epochs=1)
    sweeps = callback.result.losses
    assert len(sweeps) == len(callback.result.per_repeat) == 3
    starts = [sum(sweep[:6]) / 6 for sweep in sweeps]  # a pass over the data, nearly untrained
    assert max(starts) - min(starts) < 0.1
    assert len({sweep[0] for sweep in sweeps}) == 3


def test_a_second_sweep_zooms_into_the_falling_part() -> None:
    callback = finder(suggestion="fall", zoom=True, num_repeats=2)
    fit([callback], max_epochs=1)
    result = callback.result
    assert len(result.losses) == 1
    assert len(result.zoom_losses) == 2
    assert len(result.zoom_lrs) == 35
    assert result.lrs[0] < result.zoom_lrs[0] < result.rules["half"] < result.zoom_lrs[-1] <= result.lrs[-1]
    assert result.num_steps > sum(loss == loss for loss in result.losses[0])


def test_a_module_that_sets_its_own_rate_in_every_step_is_refused() -> None:
    class Warmup(Net):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * min(1.0, (self.global_step + 1) / 100)
            optimizer.step(closure=optimizer_closure)

    module = net(Warmup)
    with pytest.raises((MisconfigurationException, ValueError), match="learning rate"):
        fit([finder()], module)
    assert module.seen == []


class Prodigy(torch.optim.SGD):
    """By its name."""


def test_a_parameter_free_optimizer_is_skipped_with_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    class Free(Net):
        def configure_optimizers(self) -> Any:
            return Prodigy(self.parameters(), lr=1.0)

    callback = finder()
    with caplog.at_level("INFO"):
        fit([callback], net(Free, lr=1.0))
    assert callback.result is None
    assert sum("Prodigy finds its step size itself" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    "limit", [{"fast_dev_run": True}, {"max_epochs": 0}, {"max_steps": 0}, {"limit_train_batches": 0}]
)
@pytest.mark.filterwarnings("ignore:.*max_steps")
def test_where_nothing_is_trained_nothing_is_searched(limit: dict[str, Any]) -> None:
    callback = finder(milestones=(0, 1))
    run = fit([callback], **limit)
    assert callback.result is None
    assert run.module.lr == 0.05


def test_lazy_parameters_are_refused_with_what_to_do() -> None:
    class Lazy(Net):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.LazyLinear(3)

    module = net(Lazy)
    with pytest.raises(MisconfigurationException, match="Run one batch through the model before `fit`"):
        fit([finder()], module)
    assert module.seen == []


def test_a_rate_of_zero_is_one_to_be_found() -> None:
    callback = finder()
    run = fit([callback], net(lr=0.0))
    assert run.module.lr == callback.optimal_lr > 0
    assert callback.result.lr_before == 0.0
    usual = finder()
    fit([usual], net())
    assert callback.optimal_lr == usual.optimal_lr


def test_a_callback_that_may_shape_the_step_and_does_not_say_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    class Says(Callback):
        changes_gradients = False

        def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pass

    class KeepsSilent(Callback):
        def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pass

    with caplog.at_level("INFO"):
        fit([Says(), KeepsSilent(), finder()], max_epochs=1)
    assert sum("KeepsSilent did not act" in record.message for record in caplog.records) == 1


def test_find_keeps_the_metrics_of_an_earlier_fit() -> None:
    run = fit([], net(), max_epochs=1)
    before = dict(run.trainer.callback_metrics)
    assert before
    module = run.module
    module.val_dataloader = loader
    finder().find(run.trainer, module, loader())
    assert dict(run.trainer.callback_metrics) == before


def test_the_attribute_can_be_named_and_a_wrong_name_is_refused_before_any_step() -> None:
    class Named(Net):
        def __init__(self) -> None:
            super().__init__(lr=0.3)
            self.optim = {"step_size": 1e-3}

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.optim["step_size"])

    callback = finder(attr_name="optim.step_size")
    module = fit([callback], net(Named)).module
    assert module.optim["step_size"] == callback.optimal_lr
    assert module.lr == 0.3
    module = net(Named)
    with pytest.raises((MisconfigurationException, ValueError), match="no_such_name"):
        fit([finder(attr_name="no_such_name")], module)
    assert module.seen == []


def test_no_validation_batch_is_run_for_it() -> None:
    """A peer ran up to 170 validation batches in a search, and overrode `limit_val_batches=0`."""
    calls: list[int] = []

    class Validates(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            calls.append(batch_idx)

    run = fit([finder()], net(Validates), limit_val_batches=0)
    assert calls == []
    assert run.trainer.limit_val_batches == 0


def test_early_stopping_does_not_end_a_search_and_max_epochs_do_not_shorten_it() -> None:
    callback = finder()
    stopping = EarlyStopping("train_loss_epoch", patience=1, check_on_train_epoch_end=True)
    fit([stopping, callback], max_epochs=1, max_steps=3)
    assert callback.result.num_steps > 20
    assert stopping.wait_count == 0


def test_tensorboard_holds_the_figure_the_table_the_scalars_and_the_hyperparameter(tmp_path: Path) -> None:
    callback = finder()
    train(net(), [callback], loader(shuffle=True), logger=TensorBoardLogger(tmp_path, name="run"), max_epochs=1)
    events = EventAccumulator(str(tmp_path / "run" / "version_0")).Reload()
    tags = events.Tags()
    assert "lr_finder/range_test" in tags["images"]
    assert any("lr_finder/summary" in tag for tag in tags["tensors"])
    assert events.Scalars("lr_finder/lr_found")[0].value == pytest.approx(callback.optimal_lr)
    assert events.Scalars("lr_finder/lr_used")[0].value == pytest.approx(callback.optimal_lr)
    hparams = (tmp_path / "run" / "version_0" / "hparams.yaml").read_text()
    assert f"lr: {callback.optimal_lr}" in hparams


def test_what_it_found_is_in_the_logged_hyperparameters_with_and_without_a_home() -> None:
    class Homeless(Net):
        def __init__(self) -> None:
            super().__init__()
            del self.lr
            self._hparams.clear()
            self._hparams_initial.clear()
            self._hparams["groups"] = False

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    for module in (net(), net(Homeless)):
        logger, callback = MemoryLogger(), finder()
        hparams: dict[str, Any] = {}
        logger.log_hyperparams = lambda params, *a, _h=hparams, **k: _h.update(dict(params))  # type: ignore[method-assign]
        fit([callback], module, logger=logger)
        assert hparams["lr"] == callback.optimal_lr


def test_no_logger_and_no_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    fit([finder()], logger=False)
    captured = capsys.readouterr()
    assert "Finding the learning rate" not in captured.err + captured.out


def test_a_progress_bar_while_it_works(capsys: pytest.CaptureFixture[str]) -> None:
    fit([finder()], enable_progress_bar=True, logger=False)
    assert "Finding the learning rate" in capsys.readouterr().err


@resumes
def test_resume_does_not_search_again_and_continues_as_if_uninterrupted(tmp_path: Path) -> None:
    for options in ({}, {"scheduler": "cosine", "groups": True}, {"optimizer": "adamw", "scheduler": "one_cycle"}):
        whole = finder()
        uninterrupted = fit([whole], net(**options), max_epochs=4)
        first = finder()
        checkpoint = ModelCheckpoint(tmp_path / options.get("scheduler", "none"), save_last=True)
        # The schedule's length comes from max_epochs: the interrupted run has the same, and stops by itself.
        with pytest.raises(InterruptedError):
            train(net(**options), [first, checkpoint, _StopAfter(2)], loader(shuffle=True), max_epochs=4,
                  enable_checkpointing=True)  # fmt: skip
        again = finder()
        resumed = fit([again], net(**options), max_epochs=4, ckpt_path=checkpoint.last_model_path)
        assert again.optimal_lr == first.optimal_lr == whole.optimal_lr
        assert again.result.to_dict() == first.result.to_dict()
        assert resumed.module.lr == resumed.module.hparams.lr == whole.optimal_lr
        assert_identical(resumed.schedulers, uninterrupted.schedulers, "schedulers")
        rates = [group["lr"] for group in resumed.optimizer[0]["param_groups"]]
        assert rates == [group["lr"] for group in uninterrupted.optimizer[0]["param_groups"]]


class _StopAfter(Callback):
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epochs:
            raise InterruptedError


@resumes
def test_resumed_training_is_bit_equal_to_uninterrupted(tmp_path: Path) -> None:
    """With data that does not depend on the dice: what a checkpoint does not hold cannot come back with anyone."""
    uninterrupted = fit([finder()], max_epochs=4, loader=loader())
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    with pytest.raises(InterruptedError):
        fit([finder(), checkpoint, _StopAfter(2)], max_epochs=4, loader=loader(), enable_checkpointing=True)
    module = net()
    module.noise = None  # set below: the module's own dice are its own to save
    states: dict[str, Any] = {}

    class Dice(Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
            states[f"{id(pl_module)}-{trainer.current_epoch}"] = pl_module.noise.get_state()

    reference = net()
    torch.manual_seed(5)
    train(reference, [finder(), Dice()], loader(), max_epochs=4)
    module.noise = torch.Generator()
    module.noise.set_state(states[f"{id(reference)}-2"])
    running = torch.load(checkpoint.last_model_path, weights_only=True)
    assert "callbacks" in running
    resumed = fit([finder()], module, max_epochs=4, loader=loader(), ckpt_path=checkpoint.last_model_path)
    assert_identical(resumed.weights, uninterrupted.weights, "weights")
    assert_identical(resumed.optimizer, uninterrupted.optimizer, "optimizer")


def test_checkpoints_load_in_the_safe_way(tmp_path: Path) -> None:
    """A peer crashes on its own checkpoint under `weights_only`."""
    checkpoint, callback = ModelCheckpoint(tmp_path, save_last=True), finder()
    fit([callback, checkpoint], max_epochs=1, enable_checkpointing=True)
    state = torch.load(checkpoint.last_model_path, weights_only=True)
    assert state["hyper_parameters"]["lr"] == callback.optimal_lr
    assert Net.load_from_checkpoint(checkpoint.last_model_path).lr == callback.optimal_lr


def test_a_second_fit_goes_on_with_what_was_found() -> None:
    class Homeless(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    for module in (net(), net(Homeless)):
        callback = finder()
        run = fit([callback], module, max_epochs=1)
        found, steps = callback.optimal_lr, len(module.seen)
        run.trainer.fit_loop.max_epochs = 2
        run.trainer.fit(module, loader(shuffle=True), DataLoader(Samples(32), 16))
        assert callback.optimal_lr == found
        assert len(module.seen) == 2 * steps
        assert run.trainer.optimizers[0].param_groups[0]["lr"] == found


def test_a_second_fit_of_another_model_searches_again() -> None:
    """The Trainer counts its epochs on; the rate that was found is that of the first model."""
    callback = finder()
    run = fit([callback], net(), max_epochs=1)
    first, other = callback.result, net(optimizer="adamw", lr=0.005)
    run.trainer.fit_loop.max_epochs = 2
    run.trainer.fit(other, loader(shuffle=True), DataLoader(Samples(32), 16))
    assert callback.result is not first
    assert callback.result.lr_before == 0.005
    assert run.trainer.optimizers[0].param_groups[0]["lr"] == other.lr == callback.optimal_lr


def test_a_rate_that_was_changed_between_two_fits_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    callback, module = finder(), net()
    run = fit([callback], module, max_epochs=1)
    module.lr = module.hparams.lr = 0.0123
    run.trainer.fit_loop.max_epochs = 2
    with caplog.at_level(logging.INFO):
        run.trainer.fit(module, loader(shuffle=True), DataLoader(Samples(32), 16))
    assert run.trainer.optimizers[0].param_groups[0]["lr"] == 0.0123
    assert "LRFinder: the learning rate 0.0123, set since the search, is kept." in caplog.text


def test_a_finder_that_comes_after_its_milestones_says_so(caplog: pytest.LogCaptureFixture) -> None:
    run = fit([], module := net(), max_epochs=1)
    run.trainer.callbacks.append(callback := finder())
    run.trainer.fit_loop.max_epochs = 2
    with caplog.at_level(logging.INFO):
        run.trainer.fit(module, loader(shuffle=True), DataLoader(Samples(32), 16))
    assert callback.result is None
    assert "LRFinder: no search: the training goes on at epoch 1, after all `milestones`." in caplog.text


def test_the_same_callback_in_another_training_searches_again() -> None:
    callback = finder()
    fit([callback], net())
    first = callback.result
    fit([callback], net(optimizer="adamw"))
    assert callback.result is not first
    assert callback.result.num_steps > 20


@pytest.mark.filterwarnings("ignore:LRFinder. the learning rate stays")
def test_milestones_search_again_in_the_middle() -> None:
    """A peer's recipe for this recorded nothing and skipped the epochs after it."""
    found: dict[int, float] = {}

    class Notes(Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            found[trainer.current_epoch] = trainer.optimizers[0].param_groups[0]["lr"]

    callback = finder(milestones=(1, 3))
    run = fit([callback, Notes()], net(lr=0.004), max_epochs=5)
    assert run.global_step == 30
    assert found[0] == 0.004
    assert len({found[0], found[1], found[3]}) >= 2
    assert found[1] == found[2]
    assert callback.result.num_steps > 20
    assert run.module.lr == found[4]


@pytest.mark.parametrize(("milestones", "got"), [((7, 5), r"\[5, 7\]"), ((), "none")])
def test_milestones_of_which_none_comes_are_named(milestones: tuple[int, ...], got: str) -> None:
    callback = finder(milestones=milestones)
    with pytest.warns(UserWarning, match=rf"before the end of the training \(5 epochs\), but got {got}\."):
        fit([callback], net(), max_epochs=5)
    assert callback.result is None
    fit([finder(milestones=milestones)], net(), max_epochs=5, fast_dev_run=True)


@pytest.mark.parametrize(("max_epochs", "accumulate"), [(-1, 1), (9, 1), (9, 2)])
def test_milestones_that_the_steps_do_not_reach_are_named(max_epochs: int, accumulate: int) -> None:
    """Of six batches an epoch 12 steps are two epochs, or four with two batches a step."""
    options = {"max_epochs": max_epochs, "max_steps": 12, "accumulate_grad_batches": accumulate}
    end = 2 * accumulate
    with pytest.warns(
        UserWarning, match=rf"before the end of the training \(12 steps, {end} epochs\), but got \[{end}\]"
    ):
        train(Net(), [finder(milestones=(end,))], loader(), **options)
    reached = finder(milestones=(end - 1, end + 3))
    train(Net(), [reached], loader(), **options)
    assert list(reached.results) == [end - 1]


def test_find_alone_returns_the_result_and_leaves_everything_as_it_was(tmp_path: Path) -> None:
    for options in ({}, {"dropout": 0.3, "batch_norm": True, "scheduler": "one_cycle", "optimizer": "adamw"}):
        torch.manual_seed(5)
        module = net(**options)
        pl.seed_everything(1)
        logger = MemoryLogger()
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=2, logger=logger, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, log_every_n_steps=1, default_root_dir=tmp_path,
        )  # fmt: skip
        data, val = loader(shuffle=True), DataLoader(Samples(32), 16)
        module.val_dataloader = lambda _val=val: _val  # `find` takes no validation loader
        streams = torch.get_rng_state()
        attributes, hparams = sorted(vars(module)), copy.deepcopy(dict(module.hparams))
        settings = {name: id(value) for name, value in vars(trainer).items()}
        result = finder(num_repeats=3).find(trainer, module, data)
        assert isinstance(result, LearningRateResult)
        assert result.suggestion
        assert result.lr_used == result.lr_before == 0.05
        assert torch.equal(streams, torch.get_rng_state())
        assert sorted(vars(module)) == attributes
        assert dict(module.hparams) == hparams
        assert {name: id(value) for name, value in vars(trainer).items()} == settings
        assert logger.metrics == []
        assert list(tmp_path.rglob("*")) == []
        trainer.fit(module, data, val)
        from tests.training import record

        assert_same_training(record(trainer, module, logger), fit([], net(**options)))


def test_find_alone_with_a_datamodule_and_with_the_modules_own_loader() -> None:
    class Data(pl.LightningDataModule):
        prepared = 0

        def setup(self, stage: str) -> None:
            self.samples = Samples()

        def val_dataloader(self) -> DataLoader:
            return loader()

        def train_dataloader(self) -> DataLoader:
            return DataLoader(self.samples, 16, shuffle=True)

    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    data = Data()

    class WithValidation(Net):
        def val_dataloader(self) -> DataLoader:
            return loader()

    assert finder().find(trainer, WithValidation(), datamodule=data).suggestion
    assert not hasattr(data, "samples")


def test_find_restores_the_trainer_after_an_error() -> None:
    class Breaks(Net):
        def val_dataloader(self) -> DataLoader:
            return loader()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise OSError("broken")

    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    settings = {name: id(value) for name, value in vars(trainer).items()}
    state = copy.copy(vars(trainer.state))
    with pytest.raises(OSError, match="broken"):
        finder().find(trainer, Breaks(), loader())
    assert {name: id(value) for name, value in vars(trainer).items()} == settings
    assert vars(trainer.state) == state


def test_it_can_be_copied_pickled_and_restored() -> None:
    callback = finder()
    fit([callback])
    for twin in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert twin.optimal_lr == callback.optimal_lr
        assert twin.result.to_dict() == callback.result.to_dict()
        assert vars(twin).keys() == vars(callback).keys()
    fresh = finder()
    fresh.load_state_dict(callback.state_dict())
    assert fresh.result.to_dict() == callback.result.to_dict()
    empty = finder()
    empty.load_state_dict(finder().state_dict())
    assert empty.result is None


class CliData(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return loader(shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return loader()


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_it_is_built_from_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train"])
    config = tmp_path / "config.yaml"
    config.write_text(
        """
seed_everything: 1
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lightning_hp.LRFinder
      init_args: {min_lr: 1.0e-4, num_training_steps: 30, suggestion: half, milestones: [0]}
model: {lr: 0.001}
"""
    )
    cli = LightningCLI(Net, CliData, args=["fit", f"--config={config}"], save_config_callback=None)
    callback = next(c for c in cli.trainer.callbacks if isinstance(c, LRFinder))
    assert callback.result.rule == "half"
    assert cli.model.lr == callback.optimal_lr


def test_it_works_in_the_other_namespace() -> None:
    class Other(lightning.pytorch.LightningModule):
        def __init__(self, lr: float = 1e-4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(8, 3)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])

    for act in ("callback", "find"):
        torch.manual_seed(5)
        module, callback = Other(), finder()
        trainer = lightning.pytorch.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
            enable_model_summary=False, callbacks=[callback] if act == "callback" else [],
        )  # fmt: skip
        if act == "callback":
            trainer.fit(module, loader(shuffle=True))
            assert module.hparams["lr"] == callback.optimal_lr
        else:
            assert callback.find(trainer, module, loader(shuffle=True)).suggestion
            assert module.hparams["lr"] == 1e-4


def test_the_results_of_all_milestones_are_kept_and_survive_a_checkpoint() -> None:
    callback = finder(milestones=(0, 2), suggestion="minimum")
    fit([callback], max_epochs=3)
    assert sorted(callback.results) == [0, 2]
    assert callback.results[2] is callback.result is not callback.results[0]
    again = finder()
    again.load_state_dict(pickle.loads(pickle.dumps(callback.state_dict())))
    assert again.results == callback.results


def test_a_rule_by_name_answers_where_the_curve_is_refused() -> None:
    class Faint(Net):
        """The loss hardly falls in its noise."""

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) * 1e-3 + 0.1 * torch.randn(())

    callback = finder(suggestion="fall", update_attr=False)
    torch.manual_seed(0)
    fit([callback], net(Faint))
    result = callback.result
    assert result.suggestion == result.rules["fall"] is not None
    assert "was asked for; the curve itself supports no rate" in (result.note or "")
