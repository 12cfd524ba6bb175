"""Trials on a scripted machine: its clock, its memory and its errors are known, so every verdict is too."""

from __future__ import annotations

import itertools
import math
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lightning_hp.memory import Budget, Peak
from lightning_hp.tuning.batch_size.choice import SearchGoal, choose_batch_size
from lightning_hp.tuning.batch_size.trials import PREDICTION_SHARE, BatchTrials

MIB = 2**20

# Batch size and peak memory in MiB, as measured.
PEAKS = {
    "resnet18": [(8, 130), (32, 139), (64, 151), (128, 177), (256, 228), (512, 335), (4096, 1870)],
    "resnet50": [(1, 354), (2, 420), (4, 580), (8, 899), (16, 1537), (32, 2849), (64, 5495), (256, 21371)],
    "vit": [(1, 993), (2, 997), (4, 1130), (8, 1588), (32, 4334), (128, 15318)],
}


class Trainer(pl.Trainer):
    """As much of one as trials look at; its steps are joint ones where it has two processes."""

    world_size = strategy = lightning_module = state = None

    def __init__(self, world_size=1):
        self.world_size = world_size
        self.lightning_module = torch.nn.SyncBatchNorm(1)
        self.state = SimpleNamespace(fn="fit")
        self.limit_train_batches = 1.0
        self.strategy = SimpleNamespace(
            root_device=torch.device("cpu"),
            model=self.lightning_module,
            reduce=lambda tensor, reduce_op: tensor,
            lr_scheduler_configs=[],
        )


class Machine:
    """The rehearsal, the batch size and the meter in one: a step takes ``seconds(size, position)`` on its own clock."""

    def __init__(self, monkeypatch, seconds=lambda size, position: 1.0, peak=None, budget=None, world_size=1):
        self.trainer = Trainer(world_size)
        self.seconds, self.peak = seconds, peak
        self.budget = budget or Budget(None, "a device that does not tell", kills=False)
        self.retries, self.ooms = {}, {}
        self.error, self.validation_error = {}, {}
        self.gives = {}
        self.has_validation = True
        self.clock = 0.0
        self.loaders = [object()]  # does not tell its batch size
        self.pass_is_over = False
        self.run = []
        self.accumulated = []
        self.validated = []
        self.isolated = False
        monkeypatch.setattr("lightning_hp.tuning.batch_size.trials.time.perf_counter", lambda: self.clock)
        monkeypatch.setattr("lightning_hp.tuning.batch_size.trials.independent_ranks", lambda trainer: nullcontext())
        monkeypatch.setattr("lightning_hp.memory.release.release_memory", lambda device: None)

    def restart(self, build, accumulate_grad_batches):
        _, self.size = build()
        self.position = 0
        self.accumulated.append(accumulate_grad_batches)
        self.run.append(self.size)

    def step(self):
        if self.size in self.error:
            raise self.error[self.size]
        self.clock += self.seconds(self.size, self.position)
        self.position += 1
        self.num_samples = self.gives.get(self.size, self.size) * self.accumulated[-1]
        self.first_batch = self.gives.get(self.size, self.size)

    def validate(self):
        self.validated.append(self.size)
        if self.size in self.validation_error:
            raise self.validation_error[self.size]
        return self.has_validation

    @contextmanager
    def measure(self):
        peak = Peak()
        try:
            yield peak
        finally:
            peak.bytes = None if self.peak is None else int(self.peak(self.size))
            peak.retries, peak.ooms = self.retries.get(self.size, 0), self.ooms.get(self.size, 0)

    def isolate(self):
        self.isolated = True
        return self.budget.kills

    def end_isolation(self):
        self.isolated = False

    def trials(self, steps=3, accumulate=1, on_trial=lambda: None):
        batch_size = SimpleNamespace(loaders=lambda size: ("loaders", size), ratio=1.0, value=4)
        return BatchTrials(self, batch_size, self, steps, accumulate, on_trial)


@pytest.fixture
def machine(monkeypatch):
    return lambda **options: Machine(monkeypatch, **options)


def measured(name):
    """The peak of every size, in bytes, along the measured points."""
    sizes, peaks = zip(*PEAKS[name], strict=True)
    return lambda size: float(np.interp(size, sizes, peaks)) * MIB


def killing(room):
    return Budget(int(room), "a kernel that kills", kills=True)


# --- a trial


def test_the_first_step_is_not_timed_and_the_median_of_the_others_counts(machine):
    one = machine(seconds=lambda size, position: [100.0, 4.0, 1.0, 2.0, 50.0, 2.5][position])
    trials = one.trials(steps=6)
    assert trials.fits(10)
    assert trials.speeds == {10: [10 / 2.5]}
    assert trials.num_steps == 6


def test_the_samples_of_all_accumulated_batches_and_processes_count(machine):
    one = machine(seconds=lambda size, position: 2.0, budget=Budget(10**9, "plenty", False), world_size=2)
    trials = one.trials(accumulate=2)
    trials.fits(10)
    assert trials.speeds == {10: [2 * 2 * 10 / 2.0]}


@pytest.mark.parametrize(("asked", "run"), [(1, 1), (2, 2), (3, 2), (64, 2)])
def test_a_third_accumulated_batch_takes_what_the_second_took(machine, asked, run):
    one = machine()
    one.trials(accumulate=asked).fits(4)
    assert one.accumulated == [run]


def test_a_step_that_the_clock_does_not_see(machine):
    one = machine(seconds=lambda size, position: 0.0)
    trials = one.trials()
    assert trials.fits(4)
    assert math.isfinite(trials.speeds[4][0])


def test_repeats_are_kept_and_a_size_that_then_fails_is_withdrawn(machine):
    one = machine(seconds=lambda size, position: size)
    trials = one.trials()
    assert [trials.fits(4), trials.fits(8), trials.fits(4)] == [True] * 3
    assert trials.speeds == {4: [1.0, 1.0], 8: [1.0]}
    one.error[8] = MemoryError()
    assert not trials.fits(8)
    assert (trials.fitted, list(trials.speeds)) == ([4], [4])


def test_each_trial_is_told_to_the_progress_bar(machine):
    told = []
    one = machine(peak=lambda size: size * MIB, budget=killing(10 * MIB))
    trials = one.trials(on_trial=lambda: told.append(len(trials.trials)))
    for size in (4, 8, 16):
        trials.fits(size)
    assert told == [1, 2, 3]


def test_the_validation_is_run_after_the_steps_when_it_is_asked_for(machine):
    one = machine()
    trials = one.trials()
    trials.fits(4)
    assert trials.fits(8, validate=True)
    assert one.validated == [8]
    assert trials.num_loader_builds == 3
    one.has_validation = False
    trials.fits(8, validate=True)
    assert trials.num_loader_builds == 4


# --- memory that ran out


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 268435456 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["cuda", "python", "mps", "host", "cublas"],
)
def test_memory_that_runs_out_is_a_size_that_does_not_fit(machine, error):
    """Lightning's finder ends with a crash for most of these."""
    one = machine(peak=lambda size: size * MIB)
    one.error[64] = error
    trials = one.trials()
    assert [trials.fits(32), trials.fits(64), trials.fits(16)] == [True, False, True]
    assert type(error).__name__ in trials.trials[1].reason


def test_a_trial_that_failed_gives_no_peak(machine):
    """It stopped on the way there: what was measured until then is not what the size takes."""
    one = machine(peak=lambda size: size * MIB)
    one.error[64] = MemoryError()
    trials = one.trials()
    trials.fits(32)
    trials.fits(64)
    assert trials.peaks == [(32, 32 * MIB)]
    assert trials.trials[1].samples_per_second is None


def test_an_allocator_that_retries_ran_out_of_memory(machine):
    """It goes on by throwing its cache away, and runs out soon after."""
    for counts in ("retries", "ooms"):
        one = machine(peak=lambda size: size * MIB, budget=Budget(1000 * MIB, "a device", kills=False))
        getattr(one, counts)[64] = 1
        trials = one.trials()
        assert [trials.fits(32), trials.fits(64)] == [True, False]
        assert trials.trials[1].reason == "the allocator ran out of memory"
        assert 64 not in trials.speeds


def test_a_peak_above_the_budget_does_not_fit_although_it_ran(machine):
    one = machine(peak=lambda size: size * MIB, budget=Budget(50 * MIB, "a device", kills=False))
    trials = one.trials()
    assert [trials.fits(50), trials.fits(51)] == [True, False]
    assert trials.trials[1].reason == "51 MiB taken, 50 MiB is what a device allows"
    assert trials.peaks[1] == (51, 51 * MIB)


@pytest.mark.parametrize("place", ["error", "validation_error"])
def test_an_error_that_is_not_about_memory_is_raised(machine, place):
    one = machine()
    getattr(one, place)[8] = ValueError("Expected more than 1 value per channel when training")
    trials = one.trials()
    assert trials.fits(4, validate=True)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        trials.fits(8, validate=True)


def test_a_validation_that_runs_out_is_a_size_that_does_not_fit(machine):
    """Lightning's finder raises a KeyError of its own there."""
    one = machine()
    one.validation_error[8] = torch.OutOfMemoryError("CUDA out of memory.")
    trials = one.trials()
    assert trials.fits(8)
    assert not trials.fits(8, validate=True)
    assert trials.fitted == []


@pytest.mark.parametrize("gives", [1, 16, 31])
def test_batches_of_another_size_are_refused(machine, gives):
    """Lightning answers 2048 where a loader ignores the batch size, and every batch has 16 samples."""
    one = machine()
    one.gives[32] = gives
    with pytest.raises(
        MisconfigurationException, match=f"batches of 32 samples .* at batch size 32, but got one of {gives}"
    ):
        one.trials().fits(32)
    assert one.position == 1


class Counted:
    """A loader that says how many batches it has and nothing else."""

    def __init__(self, samples, size):
        self.batches = math.ceil(samples / size)

    def __len__(self):
        return self.batches


def uncounted(one, samples, follows):
    """The machine's batches show no samples, or ten each; the number of batches follows the size, or does not."""
    step = one.step

    def silent():
        step()
        one.num_samples = one.first_batch = None
        one.loaders = [Counted(samples, one.size if follows else 4)]

    one.step = silent
    one.loaders = [Counted(samples, 4)]  # 4 is the size before
    return one.trials()


def test_batches_that_cannot_be_counted_are_known_by_their_number(machine):
    trials = uncounted(machine(), 1000, follows=True)
    assert [trials.fits(size) for size in (8, 4, 64, 500, 700, 1000)] == [True] * 6
    assert trials.speeds[8] == [8.0]


def test_batches_that_show_no_size_at_all_are_refused(machine):
    """An attribute that nobody reads was reported as the batch size, and the learning rate was scaled for it."""
    for trials in (uncounted(machine(), 1000, follows=False), uncounted(machine(), 4, follows=True)):
        with pytest.raises(MisconfigurationException, match="show that their batches have 8 samples at batch size 8"):
            trials.fits(8)


# --- what is expected


def test_without_a_budget_nothing_is_expected(machine):
    trials = machine(peak=lambda size: size * MIB).trials()
    trials.fits(8)
    trials.fits(16)
    assert trials.predict() is None
    assert trials.affordable(64, 16) == 64
    quiet = machine(budget=killing(100 * MIB)).trials()
    quiet.fits(8)
    assert quiet.predict() is None
    assert quiet.affordable(64, 8) == 16


def test_far_only_where_it_is_sure_to_fit(machine):
    """One size says no more than that a loss over all triples grows as the cube."""
    trials = machine(peak=lambda size: (100 + size) * MIB, budget=killing(500 * MIB)).trials()
    trials.fits(8)
    assert trials.affordable(32, 8) == trials.predict() == math.floor(8 * (500 / 108) ** (1 / 3))
    trials.fits(13)
    trials.fits(23)
    assert 23 < trials.affordable(40, 23) < 40
    trials.fits(390)
    assert 390 < trials.affordable(1560, 390) <= 400


def test_far_where_an_error_is_survived(machine):
    trials = machine(peak=lambda size: (100 + size) * MIB, budget=Budget(500 * MIB, "a device", False)).trials()
    trials.fits(8)
    assert trials.affordable(32, 8) == 32  # four times 108 is within 500
    assert trials.predict() == 8 * 500 // 108
    trials.fits(32)
    assert trials.predict() == 400
    assert trials.affordable(128, 32) == 64  # four times 132 is not, and what is expected may be too much


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_second_size_is_not_run_blindly(machine, world_size):
    one = machine(peak=lambda size: size * MIB, budget=killing(100 * MIB), world_size=world_size)
    trials = one.trials()
    assert trials.fits(64)
    assert not trials.fits(128)
    assert 64 < max(one.run) < 100  # a size between shows that memory goes with the batch
    assert [trial.batch_size for trial in trials.trials] == [64, 128]
    assert trials.trials[1].reason == "not run: 128 MiB expected, 100 MiB is what a kernel that kills allows"


def test_where_an_error_is_survived_any_size_may_be_run(machine):
    one = machine(peak=lambda size: size * MIB, budget=Budget(100 * MIB, "a device", kills=False))
    trials = one.trials()
    assert [trials.fits(size) for size in (32, 64, 128)] == [True, True, False]
    assert one.run == [32, 64, 128]


@pytest.mark.parametrize("num_shares", [4, pytest.param(12, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("round_to", [1, 32, "power"])
@pytest.mark.parametrize("objective", ["throughput", "memory"])
@pytest.mark.parametrize("name", PEAKS)
def test_a_budget_that_kills_is_never_run_beyond(machine, name, objective, round_to, num_shares):
    """With a share of 0.9 what may be used is exceeded by a tenth at most: less than there is."""
    peak, largest = measured(name), PEAKS[name][-1][0]
    for share, bend, at_least in itertools.product(np.geomspace(1.03, 20, num_shares), (30, 3000), (0, 200)):
        room = min(share * peak(8), 1.2 * peak(largest))
        one = machine(seconds=lambda size, position, bend=bend: 1 + size / bend, peak=peak, budget=killing(room))
        asked = SearchGoal(8, 2, largest, at_least=at_least, objective=objective, round_to=round_to, margin=0.03)
        choice = choose_batch_size(one.trials(), asked)
        assert max(map(peak, one.run)) <= 1.10 * room
        assert peak(choice.batch_size) <= room
        if objective == "memory" and round_to == 1 and 1.2 * peak(8) < room < peak(largest):
            assert choice.batch_size >= 0.9 * max(size for size in range(8, largest + 1) if peak(size) <= room)


# --- steps that all processes take together


@pytest.mark.parametrize("objective", ["throughput", "memory"])
@pytest.mark.parametrize("name", PEAKS)
def test_joint_steps_stay_below_the_budget(machine, name, objective):
    peak, largest = measured(name), PEAKS[name][-1][0]
    for share in np.geomspace(1.03, 20, 25):
        room = share * peak(8)
        one = machine(
            seconds=lambda size, position: 1 + size / 300,
            peak=peak,
            budget=Budget(int(room), "a device", kills=False),
            world_size=2,
        )
        choice = choose_batch_size(one.trials(), SearchGoal(8, 2, largest, objective=objective))
        assert max(map(peak, one.run)) <= room
        assert choice.batch_size in one.run


def test_a_size_that_ran_may_run_again_however_full_it_was(machine):
    one = machine(peak=lambda size: size * MIB, budget=Budget(100 * MIB, "a device", False), world_size=2)
    trials = one.trials()
    full = int(100 * (1 + PREDICTION_SHARE) / 2)
    assert trials.fits(full)
    assert trials.fits(full, validate=True)


def test_joint_steps_need_to_know_the_memory(machine):
    with pytest.raises(MisconfigurationException, match="a device that reports how much memory it has"):
        machine(world_size=2).trials()


def test_an_error_in_a_joint_step_is_raised(machine):
    """The other processes wait in the step: nobody may go on alone."""
    one = machine(peak=lambda size: size * MIB, budget=Budget(10**12, "a device", False), world_size=2)
    one.error[8] = torch.OutOfMemoryError("CUDA out of memory.")
    with pytest.raises(torch.OutOfMemoryError):
        one.trials().fits(8)


# --- verdicts of several processes


@pytest.mark.parametrize(
    ("other", "fits", "reason"),
    [
        ({"min": 0.0}, False, "another process ran out of memory"),
        ({"max": 90.0 * MIB}, False, "90 MiB taken, 64 MiB is what a device allows"),
        ({}, True, None),
    ],
)
def test_a_size_fits_if_it_fits_everywhere(machine, other, fits, reason):
    """What another process says is put into every reduction of its kind, once the trial has begun."""
    one = machine(peak=lambda size: 10 * MIB, budget=Budget(64 * MIB, "a device", False), world_size=2)
    trials = one.trials()
    trials._joint = False

    def reduce(tensor, reduce_op):
        values = [tensor[0].item(), other.get(reduce_op, tensor[0].item())]
        return torch.tensor([min(values) if reduce_op == "min" else max(values)])

    one.trainer.strategy.reduce = reduce
    if "max" in other:  # of the retries too: they are reduced apart
        asked = iter([other["max"], 0.0])
        one.trainer.strategy.reduce = lambda tensor, reduce_op: (
            torch.tensor([max(next(asked), tensor[0].item())]) if reduce_op == "max" else tensor
        )
    assert trials.fits(8) is fits
    assert trials.trials[0].reason == reason
