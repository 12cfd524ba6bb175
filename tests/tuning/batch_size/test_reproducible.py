"""The same size from run to run, and a bounded loss of optimizer steps, with made-up speeds and noise."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from lightning_hp.data import UnknownClasses
from lightning_hp.tuning.batch_size.bounds import Bounds
from lightning_hp.tuning.batch_size.choice import Choice, choose_batch_size
from lightning_hp.tuning.batch_size.explanation import note_on_speed, notes_on
from lightning_hp.tuning.batch_size.settings import SearchSettings
from tests.tuning.batch_size.test_choice import Device


class Noisy(Device):
    """Each trial has a speed of its own; it stays when it is read again."""

    def __init__(self, curve, seed, noise=0.03, limit=10**9):
        super().__init__(limit)
        self.rng, self.noise, self.curve = random.Random(seed), noise, curve
        self.timed = []

    def fits(self, size, validate=False):
        fitted = super().fits(size, validate)
        self.timed.append(self.curve(size) * math.exp(self.rng.gauss(0, self.noise)))
        return fitted

    @property
    def speeds(self):
        speeds = {}
        for (size, _, fitted), speed in zip(self.asked, self.timed, strict=True):
            if fitted:
                speeds.setdefault(size, []).append(speed)
        return speeds


def bounds(value=32, samples=32 * 7035, max_epochs=1, accumulate=1, **settings):
    asked = SearchSettings(min_per_class=0, **settings)
    return Bounds(asked, value, accumulate, 1, samples, max_epochs, UnknownClasses("not asked"))


def runs(curve, known, noise=0.03, number=20):
    return [choose_batch_size(Noisy(curve, seed, noise), known.goal) for seed in range(number)]


CURVES = {
    "roofline at 48": lambda size: min(size, 48.0),
    "roofline at 100": lambda size: min(size, 100.0),
    "affine, 3": lambda size: size / (3 + size),
    "affine, 1000": lambda size: size / (1000 + size),
    "flat": lambda size: 1.0,
    "rising": float,
}


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_twenty_noisy_runs_choose_the_same_size(curve):
    found = Counter(choice.batch_size for choice in runs(curve, bounds()))
    assert len(found) == 1, found


@pytest.mark.parametrize(("noise", "agreement"), [(0.01, 0.98), (0.03, 0.96), (0.1, 0.9)])
@pytest.mark.parametrize("kind", ["affine", "roofline", "saturating", "falling"])
def test_wherever_the_knee_lies_nearly_all_runs_agree(kind, noise, agreement):
    """Curves that bend at eight points of each octave, so that some lie on the threshold itself.

    There either side of it is a right answer, and the other runs find its neighbour.
    """
    shape = {
        "affine": lambda size, bend: size / (bend + size),
        "roofline": lambda size, bend: min(size / bend, 1.0),
        "saturating": lambda size, bend: 1 - math.exp(-size / bend),
        "falling": lambda size, bend: size / (bend + size + 0.003 * size**2 / bend),
    }[kind]
    agree = []
    for number in range(64):
        found = Counter(
            choice.batch_size
            for choice in runs(lambda size, bend=2 ** (number / 8): shape(size, bend), bounds(), noise, 10)
        )
        mode, times = found.most_common(1)[0]
        assert sum(found[size] for size in found if mode / 4 <= size <= 4 * mode) >= 9, (number, found)
        assert all(size & (size - 1) == 0 for size in found)
        agree.append(times / 10)
    assert sum(agree) / len(agree) >= agreement


def test_no_more_than_a_dozen_trials_on_average():
    for noise in (0.01, 0.1):
        devices = [
            Noisy(lambda size, bend=2 ** (number / 4): size / (bend + size), number, noise) for number in range(40)
        ]
        for device in devices:
            choose_batch_size(device, bounds().goal)
        assert sum(len(device.asked) for device in devices) <= 12 * len(devices)


def test_a_second_run_from_the_size_that_was_found_keeps_it():
    for bend in (2, 3, 10, 30):

        def curve(size, bend=bend):
            return size / (bend + size)

        first = choose_batch_size(Noisy(curve, 0), bounds().goal).batch_size
        second = bounds(first, own_step=32)
        assert {choice.batch_size for choice in runs(curve, second)} == {first}


def test_an_own_size_off_the_grid_is_kept_if_it_is_about_as_fast():
    choice = choose_batch_size(Noisy(lambda size: min(size, 64.0), 0), bounds(50).goal)
    assert choice.batch_size == 50
    assert choice.kept
    assert notes_on(bounds(50), choice, 1)[0].startswith("The present size 50 is kept")
    exact = choose_batch_size(Noisy(lambda size: min(size, 64.0), 0), bounds(50, round_to="power").goal)
    assert exact.batch_size in (32, 64)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("value", [1, 7, 8, 50, 500])
@pytest.mark.parametrize("samples", [4000, 56280])
def test_a_training_keeps_a_quarter_of_its_steps(samples, value, accumulate):
    """Against a count by hand, for a throughput that rises for ever."""
    known = bounds(value, samples, 3, accumulate)

    def steps(size):
        return 3 * math.ceil(math.ceil(samples / size) / accumulate)

    size = choose_batch_size(Noisy(float, 1), known.goal).batch_size
    assert steps(size) >= steps(value) / 4
    assert (known.step_limit or samples) == max(n for n in range(value, samples + 1) if steps(n) >= steps(value) / 4)
    assert bounds(value, samples, 3, accumulate, min_step_share=1.0).step_limit <= value + value**2 * accumulate
    few = bounds(value, samples, 3, accumulate, min_step_share=0.01)
    assert few.step_limit is None or steps(few.step_limit) < steps(value) / 4 or steps(value) < 250


def test_who_has_no_such_share():
    assert bounds(objective="memory").step_limit is None
    assert bounds(objective="memory", min_step_share=0.5).step_limit == 64
    assert bounds(effective_batch_size=256).step_limit is None
    assert bounds(samples=None).step_limit == 128  # a stream: steps fall with the size
    assert bounds(max_epochs=None).step_limit == 128  # the steps of an epoch
    assert bounds(128, own_step=32).step_limit == 128  # a second search takes no second share


def test_the_largest_for_memory_is_any_size():
    choice = choose_batch_size(Noisy(float, 0, limit=1153), bounds(samples=10**6, objective="memory", margin=0.0).goal)
    assert 1130 <= choice.batch_size <= 1153
    assert choose_batch_size(Noisy(float, 0, limit=47), bounds(margin=0.0).goal).batch_size == 32
    assert choose_batch_size(Noisy(float, 0, limit=47), bounds(margin=0.0, round_to=1).goal).batch_size >= 0.84 * 47


def test_the_note_says_what_was_given_up():
    known = bounds()
    assert known.highest == (128, "steps")
    choice = choose_batch_size(Noisy(float, 0), known.goal)
    assert (choice.batch_size, choice.decided_by) == (128, "highest")
    lost, faster = notes_on(known, choice, 1)
    assert lost == "At this size the training has 1759 optimizer steps instead of 7035."
    assert "Larger batches were not tried" in faster
    assert "25%" in faster
    chosen = Choice(32, "throughput", 32, True)
    (note,) = note_on_speed(chosen, {32: [90.0, 91.0, 89.0], 64: [99.0]})
    assert note == "Batches of 64 were 10% faster in samples per second, and not taken for that."
    assert note_on_speed(chosen, {16: [95.0], 32: [90.0]}) == []
