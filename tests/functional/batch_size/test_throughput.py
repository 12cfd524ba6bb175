"""The rungs against a scan over all sizes, on busy machines, and with known faults of other tools."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from lightning_hp.functional.batch_size.throughput import next_rung, throughput_is_flat, throughput_knee

# Samples per second of a batch size, with a scale where the curve bends.
CURVES = {
    "affine": lambda size, bend: size / (bend + size),
    "saturating": lambda size, bend: 1 - math.exp(-size / bend),
    "roofline": lambda size, bend: min(size / bend, 1.0),
    "falling": lambda size, bend: size / (bend + size + 0.003 * size**2 / bend),
    "rising": lambda size, bend: size,
}
BENDS = (0.1, 1, 3, 10, 30, 100, 300, 1000)


def climb(speed, first, highest, within=0.05, lowest=None):
    """Times rung after rung; each is new and within its bounds."""
    timed, size = {}, first
    while size is not None:
        assert type(size) is int
        assert size not in timed
        assert min(first, lowest or first) <= size <= highest
        timed[size] = speed(size)
        assert len(timed) <= 2 * math.log2(highest) + 4
        size = next_rung(timed, highest, within, lowest)
    return timed


def scanned_knee(speed, lowest, highest, within=0.05):
    """By timing every size."""
    speeds = {size: speed(size) for size in range(lowest, highest + 1)}
    best = max(speeds.values())
    return next(size for size in speeds if speeds[size] >= (1 - within) * best)


# --- against a scan


@pytest.mark.parametrize("within", [0.02, 0.05, 0.2])
@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_the_knee_is_known_to_a_factor_of_two(curve, within):
    for bend, highest, first in itertools.product(BENDS, (8, 9, 63, 100, 777, 1024), (1, 2, 8)):

        def speed(size, bend=bend):
            return curve(size, bend)

        timed = climb(speed, first, highest, within)
        found, truth = throughput_knee(timed, within), scanned_knee(speed, first, highest, within)
        assert truth / 2 <= found <= 2 * truth
        assert speed(found) >= (1 - 2 * within) * max(map(speed, range(first, highest + 1)))


@pytest.mark.parametrize("first", [8, 100, 512])
@pytest.mark.parametrize("curve", ["affine", "saturating", "roofline", "falling"])
def test_a_first_rung_beyond_the_knee_is_looked_under(curve, first):
    """The smallest batch that is as fast as any does not depend on where the search began."""
    for bend, lowest in itertools.product(BENDS, (1, 2, 6)):

        def speed(size, bend=bend):
            return CURVES[curve](size, bend)

        timed = climb(speed, first, 1024, lowest=lowest)
        found, truth = throughput_knee(timed), scanned_knee(speed, lowest, 1024)
        assert truth / 2 <= found <= 2 * truth


def test_what_lies_below_the_lowest_is_not_timed():
    timed = climb(lambda size: 1.0, 8, 4096, lowest=5)
    assert min(timed) == 5
    assert min(climb(lambda size: 1.0, 8, 4096)) == 8


def test_few_rungs():
    """It needs fewer rungs than doubling, although it times sizes below the knee too."""
    climbed = doubled = 0
    for bend in BENDS:
        climbed += len(climb(lambda size, bend=bend: size / (bend + size), 1, 4096))
        rungs = {}
        while not rungs or (not throughput_is_flat(rungs) and max(rungs) < 4096):
            rungs[2 ** len(rungs)] = 2 ** len(rungs) / (bend + 2 ** len(rungs))
        doubled += len(rungs)
    assert climbed <= 0.85 * doubled


def test_a_rising_curve_is_climbed_by_four_to_its_top():
    assert list(climb(lambda size: size, 2, 1000)) == [2, 8, 32, 128, 512, 1000]
    assert list(climb(lambda size: size, 7, 7)) == [7]


# --- busy machines


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_one_slow_rung_does_not_end_the_climb(curve):
    """Any single rung may be measured at a quarter of its speed: the result is nearly as fast as the best.

    Only at the very top no rung above can tell that it was not the batch, and the one below it is taken.
    """
    for bend, first in itertools.product(BENDS, (1, 2, 8)):
        best = max(curve(size, bend) for size in range(first, 1025))
        for slow in climb(lambda size, bend=bend: curve(size, bend), first, 1024):

            def speed(size, bend=bend, slow=slow):
                return curve(size, bend) / (4 if size == slow else 1)

            found = throughput_knee(climb(speed, first, 1024))
            assert curve(found, bend) >= (0.8 if slow < 1024 else 0.5) * best


def test_noise_with_outliers_costs_little_throughput():
    rng = random.Random(0)
    shares = []
    for _ in range(600):
        bend = rng.choice(BENDS)

        def speed(size, bend=bend):
            return size / (bend + size)

        timed = climb(lambda size: speed(size) * rng.gauss(1, 0.02) / (3 if rng.random() < 0.05 else 1), 2, 1024)
        shares.append(speed(throughput_knee(timed)) / speed(1024))
    shares.sort()
    assert shares[60] >= 0.9
    assert sum(share < 0.8 for share in shares) <= 12


@pytest.mark.parametrize("seed", range(100))
def test_it_ends_whatever_is_timed(seed):
    rng = random.Random(seed)
    lowest = rng.choice([None, 1, 3])
    climb(lambda size: math.exp(rng.gauss(0, 3)), rng.randint(3, 50), rng.randint(50, 3000), lowest=lowest)


def test_repeats_count_by_their_median():
    once = {8: 1.0, 32: 4.0, 128: 4.1}
    repeated = {8: [1.0, 0.1, 1.0], 32: [4.0, 4.0, 9.0], 128: [0.5, 4.1, 4.2]}
    assert next_rung(repeated, 4096) == next_rung(once, 4096) == 64


def test_sizes_above_the_top_do_not_count():
    timed = {8: 1.0, 16: 2.0, 32: 4.0, 64: 8.0, 128: 8.0, 256: 8.0}
    assert next_rung(timed, 32) is None
    assert next_rung({64: 1.0}, 32) is None


# --- known faults of other tools


@pytest.mark.parametrize("first", [1, 2, 4])
def test_the_run_in_which_ludwig_would_stop_at_two(first):
    """A measured run on a busy machine: its search ends at the first drop, for a quarter of the best speed."""
    wall = {1: 395, 2: 543, 4: 125, 8: 325, 16: 1250, 32: 1900, 64: 2130, 128: 2100, 256: 2120}
    drops = next(size for size in wall if wall[2 * size] < wall[size])
    assert drops == 2
    timed = climb(wall.__getitem__, first, 256)
    assert wall[throughput_knee(timed)] >= 0.85 * max(wall.values())


def test_the_measured_curves_have_their_measured_knees():
    """By processor time: a perceptron is within a tenth of its best from 512 on, a ResNet-18 from 64 on."""
    perceptron = {1: 563, 2: 615, 4: 1101, 8: 1942, 16: 3847, 32: 5197, 64: 6900, 128: 7850, 256: 8454, 512: 9518}
    perceptron |= {1024: 9224, 2048: 9695}
    resnet = {2: 64, 4: 94, 8: 156, 16: 257, 32: 379, 64: 471, 128: 476}
    assert throughput_knee(climb(perceptron.__getitem__, 8, 2048, 0.1), 0.1) == 512
    assert throughput_knee(climb(resnet.__getitem__, 8, 128)) == 64


def test_neighbours_are_one_rung():
    """Sizes close to a memory limit gain little on each other, although the curve is not flat."""
    rising = {size: float(size) for size in (8, 16, 32, 64, 100, 101, 102, 103)}
    assert not throughput_is_flat(rising)
    assert throughput_is_flat({**dict.fromkeys((64, 128, 256), 64.0), 8: 8.0, 100: 64.0})


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({}, 8), "`samples_per_second` to be a mapping .* with at least one size, but got {}"),
        (({8: 1.0}, 0), "`max_val` to be an int >= 1, but got 0"),
        (({8: 1.0}, 8, 0.0), "`within` to be a number > 0 and < 1, but got 0.0"),
        (({8: 1.0}, 8, 0.05, 0), "`min_val` to be an int >= 1, or None, but got 0"),
        (({8: -1.0}, 8), r"`samples_per_second\[8\]` to be one or more finite numbers > 0, but got -1.0"),
        (({8: []}, 8), r"`samples_per_second\[8\]` to be one or more finite"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        next_rung(*arguments)
