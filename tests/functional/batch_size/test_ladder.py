"""The ladder of sizes around the present one, with made-up noise, against closed forms."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest

from lightning_hp.functional.batch_size.ladder import MAX_REPEATS, is_level, ladder, next_trial, smallest_fast_size


def climb(speed, sizes, share, first=8):
    """Times sizes until none is asked for; returns all trials."""
    speeds, size = {}, max((one for one in sizes if one <= first), default=sizes[0])
    while size is not None:
        assert size in sizes
        speeds.setdefault(size, []).append(speed(size))
        assert len(speeds[size]) <= MAX_REPEATS
        size = next_trial(speeds, sizes, share)
    return speeds


def test_the_sizes_are_apart_and_within_the_limits():
    for anchor, lowest, highest in itertools.product((1, 3, 32, 100), (1, 2, 7), (20, 100, 4096)):
        if not lowest <= anchor <= highest:
            continue
        sizes = ladder(anchor, lowest, highest)
        assert anchor in sizes
        assert min(sizes) < 2 * lowest
        assert max(sizes) > highest / 2
        assert all(2 <= high / low <= 4 * 1.75 for low, high in itertools.pairwise(sizes)), sizes
        assert lowest <= min(sizes) <= max(sizes) <= highest


@pytest.mark.parametrize("share", [0.5, 0.7, 0.85])
@pytest.mark.parametrize("first", [1, 8, 500])
def test_without_noise_it_is_the_smallest_size_that_is_fast(share, first):
    """Against a scan over all the sizes; what a larger size would gain beyond the last one is a tenth at most."""
    sizes = ladder(32, 2, 8192)
    for bend in (0.3, 3, 11, 30, 100, 1000):

        def speed(size, bend=bend):
            return size / (bend + size)

        speeds = climb(speed, sizes, share, first)
        found = smallest_fast_size(speeds, sizes, share)
        scanned = [next(size for size in sizes if speed(size) >= kept * speed(8192)) for kept in (share, 0.9 * share)]
        assert found in scanned
        assert max(speeds) == 8192 or is_level(speeds, sizes)


@pytest.mark.parametrize("slow", [2, 8, 32, 128, 512])
def test_one_disturbed_trial_changes_nothing(slow):
    """The first trial of a size, at a quarter of its speed."""
    sizes = ladder(32, 2, 2048)
    for bend in (1, 10, 40, 150):
        count = Counter()

        def speed(size, bend=bend, count=count):
            count[size] += 1
            return size / (bend + size) / (4 if size == slow and count[size] == 1 else 1)

        quiet = climb(lambda size, bend=bend: size / (bend + size), sizes, 0.7)
        disturbed = climb(speed, sizes, 0.7)
        assert smallest_fast_size(disturbed, sizes, 0.7) == smallest_fast_size(quiet, sizes, 0.7)


@pytest.mark.parametrize("seed", range(30))
def test_it_ends_whatever_is_timed(seed):
    rng = random.Random(seed)
    climb(lambda size: math.exp(rng.gauss(0, 2)), ladder(32, 2, 4096), 0.7)


def test_nothing_timed():
    assert next_trial({}, [8, 32], 0.7) == 8
    assert next_trial({}, [], 0.7) is None
    assert smallest_fast_size({}, [8, 32], 0.7) is None
    assert not is_level({16: [1.0]}, [8, 32])
