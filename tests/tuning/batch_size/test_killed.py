"""A scripted machine whose kernel ends the process: what a size takes is a formula, so no search may exceed it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from lightning_hp.functional.batch_size.safe_growth import largest_peak, safe_batch_size
from lightning_hp.tuning.batch_size.choice import SearchGoal, choose_batch_size
from tests.tuning.batch_size.test_trials import MIB, Machine, killing

SHARE = 0.9  # of the room that the search may use, as by default

KINDS = {
    "linear": lambda n: 0.5 * n,
    "with a large state": lambda n: 60 + 0.2 * n,
    "state or activations": lambda n: max(40 + 0.01 * n, 0.3 * n),
    "all pairs": lambda n: 3 + 0.01 * n + 4e-4 * n**2,
    "all pairs beside a state": lambda n: 50 + 0.1 * n + 1e-3 * n**2,
    "cubic": lambda n: 1 + 0.02 * n + 2e-5 * n**3,
    "in pages": lambda n: 5 + math.ceil(0.13 * n / 4) * 4,
}


class Killing(Machine):
    """Ends at once where the real kernel would: ``largest`` is the most that was taken."""

    def __init__(self, monkeypatch, kind, room, late=1.0, validation=0.0, noise=0.0, seed=0):
        super().__init__(monkeypatch, peak=self.taken, budget=killing(SHARE * room))
        self.kind, self.late, self.validation, self.noise = kind, late, validation, noise
        self.rng = np.random.default_rng(seed)
        self.largest = 0.0

    def taken(self, size):
        factor = max(self.late if self.position >= 5 else 1.0, self.validation if size in self.validated[-1:] else 0.0)
        peak = self.kind(size) * factor * MIB * (1 + self.noise * self.rng.uniform(-1, 1))
        self.largest = max(self.largest, peak)
        return peak

    def restart(self, build, accumulate_grad_batches):
        super().restart(build, accumulate_grad_batches)
        self.validated.append(None)


def largest_that_fits(kind, factor, budget):
    return max(size for size in range(1, 20_000) if kind(size) * factor * MIB <= budget)


@pytest.mark.parametrize("objective", ["memory", "throughput"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_search_exceeds_the_room_and_nine_tenths_are_used(monkeypatch, kind, objective):
    peak = KINDS[kind]
    for room, (late, validation) in itertools.product(
        (150, 220, 333, 480, 700, 1000), ((1.0, 0.0), (3.0, 0.0), (1.0, 4.0))
    ):
        if peak(8) * max(late, validation) > 0.5 * room or (kind == "in pages" and validation + late > 1):
            continue  # the very first steps would be the last; pages of 12 or 16 MiB
        one = Killing(monkeypatch, peak, room * MIB, late, validation)
        choice = choose_batch_size(one.trials(), SearchGoal(8, 2, 20_000, objective=objective))
        step = 4 if kind == "in pages" else 0  # a curve with steps is not convex
        assert one.largest <= (SHARE * room + step) * MIB
        if objective == "memory":
            factor = max(late, validation)
            assert peak(choice.batch_size) * factor + step >= 0.9 * SHARE * room


@pytest.mark.parametrize("kind", KINDS)
def test_peaks_that_are_not_exact_stay_within_the_share_that_is_left(monkeypatch, kind):
    for room, seed in itertools.product((220, 480, 1000), range(10)):
        one = Killing(monkeypatch, KINDS[kind], room * MIB, noise=0.02, seed=seed)
        choice = choose_batch_size(one.trials(), SearchGoal(8, 2, 20_000, objective="memory"))
        assert one.largest <= room * MIB
        assert KINDS[kind](choice.batch_size) >= 0.8 * SHARE * room


def test_far_from_the_limit_trials_are_short_and_the_allocator_stays_as_it_is(monkeypatch):
    one = Killing(monkeypatch, KINDS["linear"], 10**6 * MIB)
    choose_batch_size(one.trials(), SearchGoal(8, 2, 1024))
    assert not one.isolated
    assert one.validated.count(None) == len(one.validated) - 1  # the last one


def test_the_allocator_is_fast_again_where_the_choice_is_far_from_the_limit(monkeypatch):
    for size, isolated in ((250, False), (700, True), (None, True)):
        one = Killing(monkeypatch, KINDS["linear"], 400 * MIB)
        trials = one.trials()
        for tried in (64, 128, 250, 500, 700):
            assert trials.fits(tried)
        assert one.isolated
        trials.finish(size)
        assert one.isolated == isolated


# --- how much larger a size may be


@pytest.mark.parametrize("sizes", [(8,), (8, 16), (8, 16, 32), (4, 8, 16, 32), (30, 31, 32), (8, 24, 32)])
def test_the_bound_lies_above_every_curve_up_to_the_cube(sizes):
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights = rng.exponential(size=4) * (rng.random(4) < 0.6) * np.array([1e4, 1e2, 1, 1e-1])
        points = [(n, float(weights @ [1, n, n**2, n**3])) for n in sizes]
        for n in (33, 36, 40, 48, 64):
            bound = largest_peak(points, n)
            assert bound >= (1 - 1e-9) * float(weights @ [1, n, n**2, n**3])


def test_whatever_the_points_hide_up_to_the_cube_a_tenth_more_is_taken_at_most():
    rng = np.random.default_rng(0)
    for _ in range(300):
        points = [(n, float(peak)) for n, peak in zip((20, 40, 60, 80), rng.uniform(1, 100, 4), strict=True)]
        size = safe_batch_size(points, 120)
        assert points[-1][1] * (size / 80) ** 3 <= 1.1 * 120 + 1e-9 or size == 81


@pytest.mark.parametrize("points", [[(8, 100.0)], [(8, 100.0), (16, 150.0)], [(4, 10.0), (8, 30.0), (16, 100.0)]])
@pytest.mark.parametrize("budget", [50, 101, 160, 1000, 1e9])
def test_the_safe_size_is_the_largest_within_the_budget(points, budget):
    size = safe_batch_size(points, budget)
    within = [n for n in range(1, 200) if largest_peak(points, n) <= budget]
    if len(points) > 1 or budget > 160:
        assert size == max(within, default=0) or size > 150
    assert size is not None


def test_from_few_samples_the_next_size_is_run_if_it_fits_in_proportion():
    assert safe_batch_size([(4, 70.0)], 100) == 5
    assert safe_batch_size([(4, 81.0)], 100) == 4
    assert safe_batch_size([(4, 0.0)], 100) is safe_batch_size([], 100) is None


def test_peaks_of_small_sizes_that_are_too_high_do_not_hide_the_growth():
    """Measured on a loss over all triples: blocks below 1 MiB stay in the heap."""
    size = safe_batch_size([(46, 4.3), (60, 9.2), (85, 14.3), (88, 13.3)], 35.8)
    assert 5 * 4 * size**3 / MIB <= 35.8
