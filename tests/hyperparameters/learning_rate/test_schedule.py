"""The simulated schedule is the one that runs: its rates are compared with those of stepped schedulers."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch.optim import SGD
from torch.optim import lr_scheduler as s

from lightning_hp.hyperparameters import LearningRate, Schedule
from lightning_hp.trainer import no_op
from tests.hyperparameters.learning_rate.schedules import (
    NUM_STEPS,
    RATIOS,
    SCHEDULES,
    Module,
    ModuleWithHome,
    attach,
    look,
    run,
)

LR = 2.0  # far above the floors and targets in absolute terms, which are taken for zero


def simulate(module: Any, num_steps: int, steps_per_epoch: int = 10, **kwargs: Any) -> Schedule:
    trainer = attach(module)
    home = LearningRate.locate(trainer, module, read_only=True).home
    return Schedule.simulate(trainer, module, num_steps, steps_per_epoch, home=home, **kwargs)


def stepped(module: Any, num_steps: int) -> np.ndarray:
    return np.array([[rate for rate, *_ in step] for step in run(attach(module), num_steps)])


@pytest.mark.parametrize("num_groups", [1, 3])
@pytest.mark.parametrize("make", [ModuleWithHome, Module])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_scheduler_gives_the_rates_that_it_has_when_it_is_stepped(name, make, num_groups):
    schedule = simulate(make(LR, name, num_groups, automatic=True), NUM_STEPS)
    rates = stepped(make(LR, name, num_groups), NUM_STEPS)
    if name == "two at the top":  # the plateau, which is taken for constant
        rates = LR * np.minimum(1, 0.1 + 0.9 * np.arange(NUM_STEPS) / 8)[:, None] * RATIOS[:num_groups]
    if name in ("none", "ReduceLROnPlateau"):
        assert schedule.is_constant
        assert not schedule.is_simulated
        assert schedule.rates.tolist() == [list(schedule.ratios)]
        return
    assert schedule.is_simulated
    assert not schedule.is_constant
    highest = rates[:, 0].max()
    floor = 0.02 if name == "SWALR" else 1e-3
    np.testing.assert_allclose(schedule.rates, rates / highest, rtol=1e-6, atol=1.01 * floor / LR)
    if 0.9 * LR <= highest <= LR:
        assert schedule.peak == 1.0
    else:
        assert schedule.peak == pytest.approx(highest / LR)
    assert schedule.factors(0.0) == pytest.approx(schedule.rates[0])
    assert schedule.factors(1.0) == pytest.approx(schedule.rates[-1])
    assert [schedule.factors(step / NUM_STEPS) for step in range(NUM_STEPS)] == pytest.approx(schedule.rates)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_momentum_that_a_scheduler_changes_is_that_of_the_stepped_one(name, optimizer):
    """In OneCycleLR and CyclicLR: 0.95 at the ends and 0.85 at the peak, or 0.8 to 0.9."""
    schedule = simulate(ModuleWithHome(LR, name, 2, optimizer, automatic=True), NUM_STEPS)
    steps = run(attach(ModuleWithHome(LR, name, 2, optimizer)), NUM_STEPS)
    real = [[momentum if betas is None else betas[0] for _, momentum, betas in step] for step in steps]
    found = [list(schedule.momentum(step / NUM_STEPS).values()) for step in range(NUM_STEPS)]
    if name in ("OneCycleLR", "CyclicLR", "one peak for all groups", "cyclic, shrinking"):
        assert np.ptp(real) > 0.05
        np.testing.assert_allclose(found, real, rtol=1e-9)
        highest = max(range(NUM_STEPS), key=lambda step: steps[step][0][0])
        assert list(schedule.momentum().values()) == pytest.approx(real[highest])
    else:
        assert real == [real[0]] * NUM_STEPS
        assert found == [[]] * NUM_STEPS
        assert schedule.momentum() == {}


#: Schedules of 9000 steps, of which only some moments are computed.
LONG = {
    "lambda": lambda o: s.LambdaLR(o, lambda step: 5 * min((step + 1) / 137, (138 / (step + 1)) ** 0.5)),
    "steps": lambda o: s.StepLR(o, 700, 0.8),
    "cosine": lambda o: s.CosineAnnealingLR(o, 9000),
    "restarts": lambda o: s.CosineAnnealingWarmRestarts(o, 1000, 2),
    "one cycle": lambda o: s.OneCycleLR(o, LR, 9000),
    "cycles": lambda o: s.CyclicLR(o, LR / 9, LR, 777),
    "sequence": lambda o: s.SequentialLR(
        o, [s.LinearLR(o, 0.01, 1, 703), s.CosineAnnealingLR(o, 4000), s.ConstantLR(o, 0.3, 999)], [703, 5001]
    ),
    "ends early": lambda o: s.OneCycleLR(o, LR, 3000),
    # These have to be stepped.
    "chain": lambda o: s.ChainedScheduler([s.LinearLR(o, 0.01, 1, 703), s.ExponentialLR(o, 0.9995)]),
    "multiplicative": lambda o: s.MultiplicativeLR(o, lambda step: 1.001 if step < 3210 else 0.999),
}


class Long(ModuleWithHome):
    def configure_optimizers(self):
        optimizer = SGD(self.parameters(), self.lr)
        return [optimizer], [{"scheduler": LONG[self.name](optimizer), "interval": "step"}]


class LongWithMomentum(ModuleWithHome):
    def configure_optimizers(self):
        optimizer = SGD(self.parameters(), self.lr, momentum=0.9)
        return [optimizer], [{"scheduler": s.OneCycleLR(optimizer, LR, 9000), "interval": "step"}]


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_momentum_of_a_long_schedule_is_sampled():
    module = LongWithMomentum(LR, automatic=True)
    schedule = simulate(module, 9000)
    optimizer = SGD(module.parameters(), LR, momentum=0.9)
    scheduler, real = s.OneCycleLR(optimizer, LR, 9000), []
    for _ in range(9000):
        real.append(optimizer.param_groups[0]["momentum"])
        scheduler.step()
    parts = [step / 9000 for step in range(0, 9000, 250)]
    np.testing.assert_allclose([schedule.momentum(part)[0, 0] for part in parts], real[::250], atol=5e-4)
    assert schedule.momentum()[0, 0] == pytest.approx(0.85, abs=1e-4)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("name", LONG)
def test_a_long_schedule_is_sampled_and_its_peak_is_exact(name):
    module = Long(LR, automatic=True)
    module.name = name
    schedule = simulate(module, 9000)
    optimizer = SGD(module.parameters(), LR)
    scheduler, rates = LONG[name](optimizer), []
    for _ in range(9000):
        rates.append(optimizer.param_groups[0]["lr"])
        try:
            scheduler.step()
        except ValueError:
            rates += rates[-1:] * (9000 - len(rates))
            break
    highest = max(rates)
    assert schedule.peak == pytest.approx(1.0 if 0.9 * LR < highest <= LR else highest / LR, rel=1e-9)
    parts = [step / 9000 for step in range(0, 9000, 250)]
    expected = [rates[int(part * len(schedule.rates) + 1e-9) * 9000 // len(schedule.rates)] for part in parts]
    found = [schedule.factors(part)[0] for part in parts]
    assert found == pytest.approx([rate / highest for rate in expected], rel=0.02, abs=1e-5)


def test_it_is_cheap_for_a_very_long_training():
    module = Long(LR, automatic=True)
    for name in LONG:
        module.name = name
        started = time.perf_counter()
        schedule = simulate(module, 10**7)
        assert time.perf_counter() - started < 5
        assert len(schedule.rates) <= 2000


def test_a_schedule_that_still_climbs_where_the_simulation_ends_is_unknown():
    class Climbs(ModuleWithHome):
        def configure_optimizers(self):
            optimizer = SGD(self.parameters(), self.lr)
            return [optimizer], [{"scheduler": s.MultiplicativeLR(optimizer, lambda step: 1.0001), "interval": "step"}]

    assert simulate(Climbs(LR, automatic=True), 1000).peak == pytest.approx(1.0001**999)
    schedule = simulate(Climbs(LR, automatic=True), 100_000)
    assert schedule.peak == 1.0
    assert not schedule.is_simulated


class Noam(ModuleWithHome):
    """Four times its rate at step 10 of 40."""

    def configure_optimizers(self):
        groups = [{"params": layer.parameters(), "lr": self.the_rate() * ratio} for layer, ratio in self.pairs()]
        optimizer = SGD(groups, self.the_rate())
        scheduler = s.LambdaLR(optimizer, lambda step: 4 * min(step / 10, (10 / max(step, 1)) ** 0.5))
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def pairs(self):
        return list(zip(self.layers, RATIOS, strict=False))


class TestFollowing:
    def test_value_apply_and_the_steps(self):
        module = Noam(LR, num_groups=3, automatic=True)
        trainer = attach(module)
        rate = LearningRate.locate(trainer, module)
        assert (rate.value, rate.built_on) == (LR, LR)
        rate.follow(Schedule.simulate(trainer, module, NUM_STEPS, 10, home=rate.home))
        assert (rate.value, rate.built_on) == (4 * LR, LR)
        rate.set_for_step(0.8)
        assert [lr for lr, *_ in look(trainer)] == pytest.approx([0.8, 0.08, 2.4])
        rate.check_step_lr(0.8)
        for progress, factor in ((0.0, 0.0), (5 / 40, 0.5), (10 / 40, 1.0), (39 / 40, (10 / 39) ** 0.5), (1.0, 0.5064)):
            rate.set_for_step(0.8, progress)
            assert [lr for lr, *_ in look(trainer)] == pytest.approx([r * factor for r in (0.8, 0.08, 2.4)], rel=1e-3)
            rate.check_step_lr(0.8)
        rate.apply(0.8)
        assert (rate.value, rate.built_on, module.lr) == (0.8, 0.2, 0.2)
        assert max(lr for (lr, *_), *_ in run(trainer, NUM_STEPS)) == pytest.approx(0.8)

    def test_a_group_with_a_rate_of_its_own_keeps_it(self):
        class Own(Noam):
            def pairs(self):
                return [(self.layers[0], 0.003 / self.lr), (self.layers[1], 1.0)]

        module = Own(LR, num_groups=2, automatic=True)
        trainer = attach(module)
        rate = LearningRate.locate(trainer, module)
        rate.follow(Schedule.simulate(trainer, module, NUM_STEPS, 10, home=rate.home))
        rate.set_for_step(0.8)
        assert [lr for lr, *_ in look(trainer)] == pytest.approx([0.012, 0.8])
        rate.set_for_step(0.8, 5 / 40)
        assert [lr for lr, *_ in look(trainer)] == pytest.approx([0.006, 0.4])

    def test_a_group_that_was_added_later_keeps_its_ratio(self):
        module = Noam(LR, automatic=True)
        trainer = attach(module, midway=True)
        schedule = simulate(Noam(LR, automatic=True), NUM_STEPS)
        trainer.optimizers[0].add_param_group({"params": torch.nn.Linear(2, 2).parameters(), "lr": LR / 10})
        rate = LearningRate.locate(trainer, module)
        rate.follow(schedule)
        rate.set_for_step(0.8)
        assert [lr for lr, *_ in look(trainer)] == pytest.approx([0.8, 0.08])

    def test_midway_the_peak_is_that_of_the_whole_schedule_and_the_shape_begins_here(self):
        schedule = simulate(Noam(LR, automatic=True), NUM_STEPS - 25, steps_done=25)
        assert schedule.peak == pytest.approx(4)
        assert len(schedule.rates) == NUM_STEPS - 25
        assert schedule.factors(0.0)[0] == pytest.approx((10 / 25) ** 0.5)


def test_nothing_is_changed():
    module = Noam(LR, num_groups=3, automatic=True)
    trainer = attach(module)
    run(trainer, 3)

    def observe() -> list[Any]:
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        progress = trainer.global_step, trainer.current_epoch
        weights = {name: value.tolist() for name, value in module.state_dict().items()}
        return [
            look(trainer),
            str(scheduler.state_dict()),
            module.lr,
            progress,
            weights,
            torch.get_rng_state().tolist(),
        ]

    before = observe()
    home = LearningRate.locate(trainer, module).home
    Schedule.simulate(trainer, module, NUM_STEPS, 10, home=home)
    assert observe() == before


def test_a_scheduler_that_is_built_once_is_stepped_although_a_rehearsal_muted_it():
    class Once(ModuleWithHome):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            optimizer = SGD(self.parameters(), self.lr)
            self.made = optimizer, s.LambdaLR(optimizer, lambda step: 1 + step)

        def configure_optimizers(self):
            optimizer, scheduler = self.made
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    module = Once(LR, automatic=True)
    trainer = attach(module)
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    vars(scheduler)["step"] = no_op
    schedule = Schedule.simulate(trainer, module, NUM_STEPS, 10)
    assert schedule.peak == pytest.approx(NUM_STEPS)
    assert vars(scheduler)["step"] is no_op
    assert look(trainer)[0][0] == LR


def test_timm_with_layer_decay_takes_the_group_with_the_full_rate_for_reference():
    scales = (0.1, 0.5, 1.0)

    class Timm(ModuleWithHome):
        def configure_optimizers(self):
            pairs = zip(self.layers, scales, strict=True)
            groups = [{"params": layer.parameters(), "lr_scale": scale} for layer, scale in pairs]
            optimizer = SGD(groups, self.lr)
            scheduler = CosineLRScheduler(
                optimizer, t_initial=5000, warmup_t=123, warmup_lr_init=1e-6, lr_min=1e-5, t_in_epochs=False
            )
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

        def lr_scheduler_step(self, scheduler, metric):
            scheduler.step_update(num_updates=self.global_step)

    for num_steps in (1500, 5000):  # stepped, and sampled
        schedule = simulate(Timm(1e-3, num_groups=3, automatic=True), num_steps)
        assert schedule.peak == 1.0
        assert schedule.at_peak.tolist() == pytest.approx(scales)
        np.testing.assert_allclose(schedule.rates / schedule.rates[:, -1:], [scales] * len(schedule.rates))
        assert schedule.factors(0.0)[2] < 0.01


def test_an_absolute_target_is_no_peak():
    class Target(ModuleWithHome):
        def configure_optimizers(self):
            optimizer = SGD(self.parameters(), self.lr)
            lr = self.lr
            return [optimizer], [
                {"scheduler": s.LambdaLR(optimizer, lambda step: 1 + step * 0.1 / lr), "interval": "step"}
            ]

    assert simulate(Target(LR, automatic=True), NUM_STEPS).peak == 1.0


def test_a_floor_above_the_rate_is_no_peak():
    for name in ("CosineAnnealingLR", "SWALR", "CosineAnnealingWarmRestarts"):
        for make in (Module, ModuleWithHome):
            assert simulate(make(1e-5, name, automatic=True), NUM_STEPS).peak == 1.0


def test_without_automatic_optimization_nothing_is_known():
    schedule = simulate(Noam(LR), NUM_STEPS)
    assert not schedule.is_simulated
    assert schedule.peak == 1.0
    assert schedule.is_constant


@pytest.mark.parametrize(
    ("factors", "warm_up"),
    [
        ([1.0] * 10, 0.0),
        ([1.0, 0.8, 0.6, 0.4], 0.0),
        ([0.25, 0.5, 0.75, 1.0, 0.5, 0.2, 0.1, 0.0], 3 / 8),
        ([0.1, 0.2, 0.5, 1.0], 3 / 4),  # it climbs to the end
        ([0.5, 1.0, 0.5, 1.0], 1 / 4),  # the first of two peaks
    ],
)
def test_the_warm_up_ends_when_every_group_has_had_its_peak(factors: list[float], warm_up: float) -> None:
    rates = np.array([[0.3 * factor, 0.001] for factor in factors])
    follows = dataclasses.replace(Schedule.constant([(0, 0)], np.ones(1)), shapes=rates[:, :1])
    assert follows.warm_up == warm_up
    both = dataclasses.replace(Schedule.constant([(0, 0), (0, 1)], np.ones(2)), shapes=rates)
    assert both.warm_up == warm_up  # a constant group has no warm-up
