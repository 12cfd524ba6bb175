"""Under every scheduler of torch a new rate gives the schedule that a user would get by setting it at the start."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch.optim import lr_scheduler, swa_utils

from lightning_hp.hyperparameters import LearningRate
from tests.hyperparameters.learning_rate.schedules import (
    CLASSES,
    NUM_STEPS,
    RATIOS,
    SCHEDULES,
    Module,
    ModuleWithHome,
    assert_close,
    attach,
    by_hand,
    look,
    run,
)

OLD, NEW = 0.1, 0.037
MIDWAY = 13


def test_no_scheduler_of_torch_is_left_out():
    """Fails for a scheduler of a new torch until it is in the table."""
    found = {
        name
        for module in (lr_scheduler, swa_utils)
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, lr_scheduler.LRScheduler)
    }
    assert found - {"LRScheduler", "_LRScheduler"} == set(CLASSES)


@pytest.mark.parametrize("num_groups", [1, 3])
@pytest.mark.parametrize("schedule", SCHEDULES)
class TestBeforeTheTraining:
    def test_with_a_home_the_schedule_is_that_of_the_new_rate(self, schedule, num_groups):
        module = ModuleWithHome(OLD, schedule, num_groups)
        trainer = attach(module)
        LearningRate.locate(trainer, module).apply(NEW)
        assert run(trainer, NUM_STEPS) == by_hand(ModuleWithHome(NEW, schedule, num_groups))
        assert module.lr == NEW

    def test_without_a_home_it_is_the_same_up_to_rounding(self, schedule, num_groups):
        module = Module(OLD, schedule, num_groups)
        trainer = attach(module)
        rate = LearningRate.locate(trainer, module)
        assert rate.home is None
        assert rate.value == OLD
        rate.apply(NEW)
        assert_close(run(trainer, NUM_STEPS), by_hand(Module(NEW, schedule, num_groups)))

    def test_a_checkpoint_keeps_what_was_written(self, schedule, num_groups):
        """States that are saved after `apply` are loaded into objects that were built on the old rate."""
        module = Module(OLD, schedule, num_groups)
        trainer = attach(module)
        LearningRate.locate(trainer, module).apply(NEW)
        run(trainer, MIDWAY)
        resumed = attach(Module(OLD, schedule, num_groups))
        for ours, theirs in zip(trainer.strategy.optimizers, resumed.strategy.optimizers, strict=True):
            theirs.load_state_dict(ours.state_dict())
        for ours, theirs in zip(trainer.lr_scheduler_configs, resumed.lr_scheduler_configs, strict=True):
            theirs.scheduler.load_state_dict(ours.scheduler.state_dict())
        assert run(resumed, NUM_STEPS - MIDWAY) == run(trainer, NUM_STEPS - MIDWAY)

    def test_no_key_is_added_to_a_group(self, schedule, num_groups):
        module = Module(OLD, schedule, num_groups)
        trainer = attach(module)
        keys = [list(group) for group in trainer.optimizers[0].param_groups]
        rate = LearningRate.locate(trainer, module)
        rate.set_for_step(NEW)
        rate.apply(NEW)
        assert [list(group) for group in trainer.optimizers[0].param_groups] == keys


@pytest.mark.parametrize("num_groups", [1, 3])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("make", [ModuleWithHome, Module])
def test_midway_it_continues_as_if_set_at_the_start(schedule, num_groups, make):
    module = make(OLD, schedule, num_groups)
    trainer = attach(module, midway=True)
    run(trainer, MIDWAY)
    rate = LearningRate.locate(trainer, module)
    # ReduceLROnPlateau does not record its initial rate: without a home the current one is the reference.
    forgets = schedule == "ReduceLROnPlateau" and make is Module
    optimizer = trainer.optimizers[0]
    rate.apply(NEW * optimizer.param_groups[0]["lr"] / OLD if forgets else NEW)
    assert trainer.optimizers[0] is optimizer
    expected = by_hand(make(NEW, schedule, num_groups))[MIDWAY:]
    assert_close(run(trainer, NUM_STEPS - MIDWAY), expected)
    if make is ModuleWithHome:
        assert module.lr == NEW


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_value_is_exact(schedule):
    """No rounding errors, even after many calls: the base rate of the first group is the number itself."""
    module = Module(OLD, schedule, 3)
    trainer = attach(module)
    rate = LearningRate.locate(trainer, module)
    for lr in (1e-7 * 10 ** (8 * torch.rand(50, dtype=torch.float64))).tolist():
        rate.apply(lr)
        assert LearningRate.locate(trainer, module).value == lr


@pytest.mark.parametrize("midway", [False, True])
@pytest.mark.parametrize("schedule", ["none", "CosineAnnealingLR", "OneCycleLR", "CyclicLR", "SequentialLR", "SWALR"])
def test_tensors_stay_the_same_tensors(schedule, midway):
    module = Module(torch.tensor(OLD, dtype=torch.float64), schedule, 3, optimizer="adamw")
    trainer = attach(module, midway=midway)
    if midway:
        run(trainer, MIDWAY)
    tensors = [group["lr"] for group in trainer.optimizers[0].param_groups]
    if not _tensors_and_numbers_agree(schedule):
        pytest.skip("this torch lets a SequentialLR overwrite the initial rate that a tensor rate shares memory with")
    rate = LearningRate.locate(trainer, module)
    rate.set_for_step(0.5)
    assert [float(t) for t in tensors] == pytest.approx([0.5 * ratio for ratio in RATIOS])
    for tensor, (before, *_) in zip(tensors, look(attach_and_run(schedule, MIDWAY * midway)), strict=True):
        tensor.fill_(before)
    rate.apply(NEW)
    assert all(group["lr"] is t for group, t in zip(trainer.optimizers[0].param_groups, tensors, strict=True))
    start = MIDWAY * midway
    expected = by_hand(Module(torch.tensor(NEW, dtype=torch.float64), schedule, 3, optimizer="adamw"))[start:]
    assert_close(run(trainer, NUM_STEPS - start), expected)


def _tensors_and_numbers_agree(schedule):
    """Whether torch itself gives the schedule of a tensor rate that it gives for the number."""
    rates = [
        by_hand(Module(lr, schedule, 3, optimizer="adamw")) for lr in (OLD, torch.tensor(OLD, dtype=torch.float64))
    ]
    return all(
        left[0] == pytest.approx(right[0])
        for a, b in zip(*rates, strict=True)
        for left, right in zip(a, b, strict=True)
    )


def attach_and_run(schedule, num_steps):
    trainer = attach(Module(torch.tensor(OLD, dtype=torch.float64), schedule, 3, optimizer="adamw"))
    run(trainer, num_steps)
    return trainer


def test_the_momentum_of_one_cycle_is_that_of_the_new_rate():
    for optimizer, position in (("sgd", 1), ("adamw", 2)):
        module = Module(OLD, "OneCycleLR", 2, optimizer)
        trainer = attach(module)
        LearningRate.locate(trainer, module).apply(NEW)
        ours = [[group[position] for group in step] for step in run(trainer, NUM_STEPS)]
        theirs = by_hand(Module(NEW, "OneCycleLR", 2, optimizer))
        assert ours == [[group[position] for group in step] for step in theirs]
        assert len({str(step) for step in ours}) > NUM_STEPS // 2


def test_a_plateau_without_a_home_starts_from_the_current_rate():
    module = Module(OLD, "ReduceLROnPlateau", 2)
    trainer = attach(module, midway=True)
    run(trainer, MIDWAY)
    LearningRate.locate(trainer, module).apply(NEW)
    assert look(trainer)[0][0] == NEW
    assert math.isclose(look(trainer)[1][0], 0.1 * NEW)


def test_a_plateau_stays_above_its_floor():
    module = ModuleWithHome(OLD, "ReduceLROnPlateau", 1)
    trainer = attach(module, midway=True)
    run(trainer, MIDWAY)
    LearningRate.locate(trainer, module).apply(1e-3)
    assert look(trainer)[0][0] == by_hand(ModuleWithHome(1e-3, "ReduceLROnPlateau"))[MIDWAY][0][0] == 4e-4
