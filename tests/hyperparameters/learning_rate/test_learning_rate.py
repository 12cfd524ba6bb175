"""The learning rate of a training: locating it changes nothing; it is set for single steps, and changed for good."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim import SGD, Adagrad, AdamW
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    StepLR,
)

from lightning_hp.hyperparameters import LearningRate
from tests.hyperparameters.learning_rate.schedules import (
    SCHEDULES,
    At,
    Module,
    ModuleWithHome,
    assert_close,
    attach,
    by_hand,
    fit,
    loader,
    look,
    run,
)

OLD, NEW = 0.1, 0.037


def apply_new(trainer, pl_module):
    LearningRate.locate(trainer, pl_module).apply(NEW)


def random_states() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]


class WithSideEffects(ModuleWithHome):
    """`configure_optimizers` with many side effects."""

    def __init__(self, lr, *args, **kwargs):
        super().__init__(lr, *args, **kwargs)
        self.save_hyperparameters("lr")
        self.calls = []
        self.noise = torch.Generator().manual_seed(3)

    def configure_optimizers(self):
        self.calls.append(self.lr)
        self.count = len(self.calls)
        random.random(), np.random.rand(), torch.rand(1), torch.rand(1, generator=self.noise)
        self.layers[0].bias.requires_grad_(False)
        self.layers[0].weight.data.mul_(0.5)
        self.made = super().configure_optimizers()
        return self.made


class TestLocatingChangesNothing:
    @pytest.mark.parametrize("midway", [False, True])
    @pytest.mark.parametrize("schedule", ["none", "OneCycleLR", "SequentialLR", "ReduceLROnPlateau"])
    def test_in_the_module_the_optimizers_and_the_random_state(self, schedule, midway):
        module = WithSideEffects(OLD, schedule, 3)
        trainer = attach(module, midway=midway)
        run(trainer, 7 * midway)

        def observe() -> list[Any]:
            return copy.deepcopy(
                [
                    {name: tensor.tolist() for name, tensor in module.state_dict().items()},
                    [p.requires_grad for p in module.parameters()],
                    {name: id(value) for name, value in vars(module).items()},
                    (module.lr, module.hparams, module.hparams_initial, module.calls, module.count),
                    module.noise.get_state().tolist(),
                    [[{**group, "params": None} for group in o.param_groups] for o in trainer.optimizers],
                    [id(o) for o in trainer.optimizers],
                    [{k: str(v) for k, v in vars(c.scheduler).items()} for c in trainer.lr_scheduler_configs],
                    random_states(),
                ]
            )

        before = observe()
        LearningRate.locate(trainer, module)
        assert observe() == before

    def test_when_configure_optimizers_fails_for_another_rate(self):
        class Picky(ModuleWithHome):
            def configure_optimizers(self):
                if self.lr != OLD:
                    raise KeyError("only one rate is known")
                return super().configure_optimizers()

        module = Picky(OLD)
        trainer = attach(module)
        with pytest.raises(KeyError, match="only one rate"):
            LearningRate.locate(trainer, module)
        assert module.lr == OLD

    def test_in_an_optimizer_that_is_created_once(self):
        """In `__init__`: every call of `configure_optimizers` attaches a new scheduler to the same object."""

        class Early(Module):
            def __init__(self, lr):
                super().__init__(lr)
                self.lr = lr
                self.optimizer = SGD(self.parameters(), lr=lr)

            def configure_optimizers(self):
                return [self.optimizer], [LinearLR(self.optimizer, 0.1, 1.0, 8)]

        module = Early(OLD)
        trainer = attach(module)
        before = look(trainer)
        rate = LearningRate.locate(trainer, module)
        assert look(trainer) == before
        assert rate.home is None
        rate.apply(NEW)
        assert_close(run(trainer, 20), run(attach(Early(NEW)), 20))


class TestSettingForAStep:
    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_the_step_has_the_rate_and_the_schedule_is_unchanged(self, schedule):
        module = Module(OLD, schedule, 3)
        trainer = attach(module)
        rate = LearningRate.locate(trainer, module)
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        before = [str(scheduler.state_dict()) for scheduler in schedulers]
        groups = [{**group, "lr": None} for group in trainer.optimizers[0].param_groups]
        rate.set_for_step(0.7)
        rates = [lr for lr, *_ in look(trainer)]
        assert rates[0] == 0.7
        if schedule != "one peak for all groups":
            assert rates == pytest.approx([0.7, 0.07, 2.1])
        assert [{**group, "lr": None} for group in trainer.optimizers[0].param_groups] == groups
        assert [str(scheduler.state_dict()) for scheduler in schedulers] == before
        rate.check_step_lr(0.7)

    @pytest.mark.parametrize("lr", [OLD, torch.tensor(OLD)])
    def test_a_hook_that_writes_another_rate_is_refused(self, lr):
        module = Module(lr, "none", 2)
        trainer = attach(module)
        rate = LearningRate.locate(trainer, module)
        rate.set_for_step(0.5)
        group = trainer.optimizers[0].param_groups[1]
        if isinstance(lr, torch.Tensor):
            group["lr"].mul_(0.5)
        else:
            group["lr"] *= 0.5
        with pytest.raises(MisconfigurationException, match=r"group 1 of optimizer 0 from 0.05 to 0.025"):
            rate.check_step_lr(0.5)

    def test_the_optimizers_of_a_gan_keep_their_ratio(self):
        class Gan(Module):
            def configure_optimizers(self):
                return [SGD(self.layers[0].parameters(), self.rate), AdamW(self.layers[1].parameters(), self.rate * 4)]

        module = Gan(OLD, num_groups=2)
        trainer = attach(module)
        rate = LearningRate.locate(trainer, module)
        rate.apply(0.5)
        assert [lr for lr, *_ in look(trainer)] == [0.5, 2.0]
        assert trainer.optimizers[0].defaults["lr"] == 0.5
        rate.set_for_step(0.7)
        assert [lr for lr, *_ in look(trainer)] == [0.7, 2.8]

    def test_a_group_with_a_rate_of_zero_is_not_the_reference(self):
        class WithZero(Module):
            def configure_optimizers(self):
                groups = [{"params": layer.parameters()} for layer in self.layers]
                groups[0]["lr"] = 0.0
                return SGD(groups, self.rate)

        module = WithZero(OLD, num_groups=2)
        trainer = attach(module)
        rate = LearningRate.locate(trainer, module)
        assert rate.value == OLD
        rate.apply(NEW)
        assert [lr for lr, *_ in look(trainer)] == [0.0, NEW]


class TestApplying:
    @pytest.mark.parametrize("lr", [0.0, -0.1, math.nan, math.inf])
    def test_a_rate_out_of_range_is_refused(self, lr):
        module = Module(OLD)
        with pytest.raises(ValueError, match="Expected `lr` to be a finite number > 0"):
            LearningRate.locate(attach(module), module).apply(lr)

    @pytest.mark.parametrize("lr", [None, "0.1", b"1", True, [0.1], {}, object(), torch.tensor(0.1)])
    def test_a_rate_of_a_wrong_type_is_refused(self, lr):
        module = Module(OLD)
        with pytest.raises(TypeError, match="Expected `lr` to be a finite number > 0"):
            LearningRate.locate(attach(module), module).apply(lr)

    def test_optimizers_are_built_anew_only_before_the_first_step(self):
        for midway, stepped, rebuilt in ((False, False, True), (True, False, False), (False, True, False)):
            module = ModuleWithHome(OLD)
            trainer = attach(module, midway=midway)
            optimizer = trainer.optimizers[0]
            if stepped:
                module.layers[0](torch.ones(2)).sum().backward()
                optimizer.step()
            LearningRate.locate(trainer, module).apply(NEW)
            assert (trainer.optimizers[0] is not optimizer) == rebuilt
            assert look(trainer)[0][0] == module.lr == NEW

    def test_a_state_that_an_optimizer_creates_at_the_start_is_no_step(self):
        class WithAdagrad(ModuleWithHome):
            def configure_optimizers(self):
                return Adagrad(self.parameters(), self.lr)

        module = WithAdagrad(OLD)
        trainer = attach(module)
        optimizer = trainer.optimizers[0]
        LearningRate.locate(trainer, module).apply(NEW)
        assert trainer.optimizers[0] is not optimizer

    def test_after_an_error_the_home_is_unchanged(self):
        module = ModuleWithHome(OLD)
        trainer = attach(module)
        optimizer = trainer.optimizers[0]
        rate = LearningRate.locate(trainer, module)

        def fail():
            raise RuntimeError("no such rate")

        module.configure_optimizers = fail
        with pytest.raises(RuntimeError, match="no such rate"):
            rate.apply(NEW)
        assert module.lr == OLD
        assert trainer.optimizers[0] is optimizer

    def test_twice(self):
        for make in (Module, ModuleWithHome):
            for midway in (False, True):
                module = make(OLD, "OneCycleLR", 3)
                trainer = attach(module, midway=midway)
                rate = LearningRate.locate(trainer, module)
                rate.apply(0.9)
                rate.apply(NEW)
                assert rate.value == NEW
                assert_close(run(trainer, 40), by_hand(make(NEW, "OneCycleLR", 3)))

    def test_a_group_that_was_added_midway_follows(self):
        """As the fine-tuning callback of Lightning does when it unfreezes layers."""
        module = ModuleWithHome(OLD)
        trainer = attach(module, midway=True)
        trainer.optimizers[0].add_param_group({"params": nn.Linear(2, 2).parameters(), "lr": OLD / 10})
        rate = LearningRate.locate(trainer, module)
        rate.apply(0.5)
        assert [lr for lr, *_ in look(trainer)] == pytest.approx([0.5, 0.05])
        rate.set_for_step(0.7)
        assert [lr for lr, *_ in look(trainer)] == pytest.approx([0.7, 0.07])

    def test_hooks_on_parameters_run_once(self):
        """An optimizer that steps in the backward pass: configured twice, it would step twice."""
        seen = []

        class InBackward(ModuleWithHome):
            def configure_optimizers(self):
                self.layers[0].bias.register_post_accumulate_grad_hook(seen.append)
                self.layers[0].bias.register_hook(seen.append)
                return super().configure_optimizers()

        module = InBackward(OLD, "OneCycleLR")
        trainer = attach(module)
        LearningRate.locate(trainer, module).apply(NEW)
        module.layers[0](torch.ones(2)).sum().backward()
        assert len(seen) == 2
        assert module.lr == NEW
        assert_close(run(trainer, 40), by_hand(ModuleWithHome(NEW, "OneCycleLR")))

    def test_a_numpy_number_becomes_a_float(self):
        module = ModuleWithHome(OLD)
        LearningRate.locate(attach(module), module).apply(np.float64(NEW))
        assert type(module.lr) is float

    def test_no_optimizer_is_refused(self):
        class Without(Module):
            def configure_optimizers(self):
                return None

        module = Without(OLD)
        with pytest.warns(UserWarning, match="will run with no optimizer"):
            trainer = attach(module)
        with pytest.raises(MisconfigurationException, match="to return an optimizer, got none"):
            LearningRate.locate(trainer, module)

    def test_no_rate_is_refused(self):
        class Without(Module):
            def configure_optimizers(self):
                optimizer = SGD(self.parameters(), 0.1)
                optimizer.param_groups[0]["lr"] = None
                return optimizer

        module = Without(OLD)
        with pytest.raises(MisconfigurationException, match="got none in group 0 of SGD"):
            LearningRate.locate(attach(module), module)


class OwnDecay(LRScheduler):
    """A user's scheduler with base rates as in torch."""

    def get_lr(self):
        return [base / (1 + self.last_epoch) for base in self.base_lrs]


class OwnDecayWithFloor(LRScheduler):
    """A user's scheduler with a floor that cannot be recognised as a rate."""

    lowest = 0.01

    def get_lr(self):
        return [max(self.lowest, base / (1 + self.last_epoch)) for base in self.base_lrs]


class OwnPeak(LRScheduler):
    """A user's scheduler with a peak rate next to the base rates."""

    def __init__(self, optimizer, peak):
        self.peak = peak
        super().__init__(optimizer)

    def get_lr(self):
        return [self.peak * min(1.0, (1 + self.last_epoch) / 9) for _ in self.base_lrs]


class Foreign:
    """Not derived from torch's scheduler: stepped with the number of the epoch."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.start = [group["lr"] for group in optimizer.param_groups]

    def step(self, epoch):
        for group, start in zip(self.optimizer.param_groups, self.start, strict=True):
            group["lr"] = start / (1 + epoch)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


OWN = {
    "with base rates": lambda o, lr: OwnDecay(o),
    "with a floor": lambda o, lr: OwnDecayWithFloor(o),
    "with a peak": lambda o, lr: OwnPeak(o, 2 * lr),
    "inside a chain": lambda o, lr: ChainedScheduler([OwnDecayWithFloor(o), ExponentialLR(o, 0.9)]),
    "foreign": lambda o, lr: Foreign(o),
    "a lambda that remembers": lambda o, lr: LambdaLR(o, lambda step: max(0.8**step, 0.001 / lr)),
    "a chain with a floor": lambda o, lr: ChainedScheduler(
        [LinearLR(o, 0.1, 1.0, 90), CosineAnnealingLR(o, 300, eta_min=0.01)]
    ),
}


class TestSchedulersOfUsers:
    """With a home they are built again. Otherwise they are simulated, and refused if rescaling is wrong."""

    def modules(self, kind, base):
        class Own(base):
            def configure_optimizers(self):
                optimizer = SGD(self.parameters(), self.the_rate())
                return [optimizer], [OWN[kind](optimizer, self.the_rate())]

        return Own(OLD), Own(NEW)

    @pytest.mark.parametrize("kind", [kind for kind in OWN if kind != "foreign"])
    def test_with_a_home(self, kind):
        module, reference = self.modules(kind, ModuleWithHome)
        trainer = attach(module)
        apply_new(trainer, module)
        assert run(trainer, 40) == run(attach(reference), 40)

    @pytest.mark.parametrize(
        ("kind", "works"),
        [("with base rates", True), ("with a floor", False), ("with a peak", False), ("inside a chain", False),
         ("foreign", False), ("a chain with a floor", True)],
    )  # fmt: skip
    def test_without_a_home(self, kind, works):
        module, reference = self.modules(kind, Module)
        trainer = attach(module)
        if works:
            apply_new(trainer, module)
            assert_close(run(trainer, 40), run(attach(reference), 40))
        else:
            before = look(trainer)
            with pytest.raises(MisconfigurationException, match="give the model an `lr` attribute"):
                LearningRate.locate(trainer, module)
            assert look(trainer) == before
            # Reading the rate and setting it for single steps is always possible.
            LearningRate.locate(trainer, module, read_only=True).set_for_step(0.5)
            assert look(trainer)[0][0] == 0.5

    @pytest.mark.parametrize(
        ("base", "kind", "works"),
        [
            (ModuleWithHome, "with base rates", True),
            # The next rates would be right, but not the current one, which has reached the floor.
            (ModuleWithHome, "with a floor", False),
            (ModuleWithHome, "with a peak", True),
            (ModuleWithHome, "a lambda that remembers", False),
            (ModuleWithHome, "foreign", False),
            (ModuleWithHome, "a chain with a floor", False),
            (Module, "with base rates", True),
            (Module, "with a floor", False),
            (Module, "a chain with a floor", False),
        ],
    )
    def test_midway(self, base, kind, works):
        module, reference = self.modules(kind, base)
        trainer = attach(module, midway=True)
        if kind != "foreign":
            run(trainer, 13)
        if works:
            apply_new(trainer, module)
            by_hand_trainer = attach(reference)
            run(by_hand_trainer, 13)
            trainer.strategy.optimizers[0].step()
            run(trainer, 1), run(by_hand_trainer, 1)
            assert_close(run(trainer, 20), run(by_hand_trainer, 20))
        else:
            with pytest.raises(MisconfigurationException, match="that can be moved to another learning rate midway"):
                LearningRate.locate(trainer, module)
            # The same error is raised before the training on request.
            early = self.modules(kind, base)[0]
            with pytest.raises(MisconfigurationException, match="that can be moved to another learning rate midway"):
                LearningRate.locate(attach(early), early, also_midway=True)


class TestInARealTraining:
    @pytest.mark.parametrize("schedule", ["none", "LambdaLR", "OneCycleLR", "SequentialLR", "ReduceLROnPlateau"])
    @pytest.mark.parametrize("make", [Module, ModuleWithHome])
    def test_each_step_uses_the_rate_that_a_user_would_have_set(self, schedule, make):
        reference, found = At(), At(apply_new)
        torch.manual_seed(1)
        theirs = make(NEW, schedule, 3, automatic=True)
        torch.manual_seed(1)
        ours = make(OLD, schedule, 3, automatic=True)
        fit(theirs, reference)
        fit(ours, found)
        assert len(reference.used) == 40
        assert_close(found.used, reference.used)
        for left, right in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(left, right) if make is ModuleWithHome else torch.allclose(left, right)

    @pytest.mark.parametrize("schedule", ["none", "OneCycleLR", "SequentialLR"])
    def test_from_the_second_epoch_on(self, schedule):
        reference, found = At(), At(apply_new, epoch=1)
        fit(ModuleWithHome(NEW, schedule, 3, automatic=True), reference)
        fit(ModuleWithHome(OLD, schedule, 3, automatic=True), found)
        assert_close(found.used[20:], reference.used[20:])
        assert found.used[19] != reference.used[19]

    def test_the_random_state_is_that_of_a_user_who_set_the_rate(self):
        seen = []

        class Listening(At):
            def on_train_start(self, trainer, pl_module):
                seen.append(random_states())

        for lr, act in ((NEW, None), (OLD, apply_new)):
            pl.seed_everything(3)
            fit(WithSideEffects(lr, automatic=True), Listening(act))
        assert seen[0] == seen[1]

    def test_in_a_second_fit(self):
        callback = At()
        module = ModuleWithHome(OLD, "StepLR", automatic=True)
        trainer = fit(module, callback)
        callback.act = apply_new
        trainer.fit_loop.max_epochs = 4
        trainer.fit(module, loader())
        reference = At()
        fit(ModuleWithHome(NEW, "StepLR", automatic=True), reference)
        assert callback.used[40:] == reference.used

    @pytest.mark.parametrize("schedule", ["none", "OneCycleLR", "SequentialLR", "CosineAnnealingWarmRestarts"])
    @pytest.mark.parametrize("make", [Module, ModuleWithHome])
    def test_a_resumed_run_continues_with_it(self, schedule, make, tmp_path):
        whole, first, second = At(apply_new), At(apply_new), At()
        # `fit` runs one epoch of a schedule of 40 steps, saves it, and continues in a new module.
        fit(make(OLD, schedule, 3, automatic=True), whole)
        trainer = fit(make(OLD, schedule, 3, automatic=True), first, epochs=1)
        trainer.save_checkpoint(tmp_path / "half.ckpt")
        module = make(OLD, schedule, 3, automatic=True)
        resumed = fit_from(module, second, tmp_path / "half.ckpt")
        assert first.used + second.used == whole.used
        assert resumed.global_step == 40

    def test_a_warm_up_in_the_step_hook_is_refused(self):
        class WarmingUp(ModuleWithHome):
            def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
                optimizer.param_groups[0]["lr"] = self.lr * min(1.0, (1 + self.trainer.global_step) / 10)
                super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

        rates = []

        class Setting(At):
            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
                rates.append(LearningRate.locate(trainer, pl_module))
                rates[-1].set_for_step(0.5)

            def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
                rates[-1].check_step_lr(0.5)

        with pytest.raises(MisconfigurationException, match="such as a warm-up in `optimizer_step`"):
            fit(WarmingUp(OLD, automatic=True), Setting())


def fit_from(module, callback, path):
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, callbacks=[callback], enable_progress_bar=False, logger=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, loader(), ckpt_path=path, weights_only=False)
    return trainer


@pytest.mark.parametrize("package", [pl, lightning.pytorch])
class TestInBothPackages:
    def module(self, package, with_home, lr):
        class Model(package.LightningModule):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(2, 1)
                self.rate = lr
                if with_home:
                    self.lr = lr

            def training_step(self, batch, batch_idx):
                return self.layer(batch).square().mean()

            def configure_optimizers(self):
                optimizer = SGD(self.parameters(), self.lr if with_home else self.rate)
                return [optimizer], [{"scheduler": StepLR(optimizer, 9, 0.5), "interval": "step"}]

        return Model()

    @pytest.mark.parametrize("with_home", [True, False])
    def test_the_rate_stays(self, package, with_home):
        reference, found = At(), At(apply_new)
        fit(self.module(package, with_home, NEW), reference, package)
        fit(self.module(package, with_home, OLD), found, package)
        assert_close(found.used, reference.used)

    def test_the_error_is_one_of_that_package(self, package):
        expected = __import__(f"{package.__name__}.utilities.exceptions", fromlist=["_"]).MisconfigurationException
        module = self.module(package, True, OLD)
        with pytest.raises(expected, match="neither"):
            LearningRate.locate(attach(module, package=package), module, "speed")
