"""The knee under made-up noise, against closed forms and many runs."""

from __future__ import annotations

import math
import random
from collections import defaultdict

import pytest

from lightning_hp.functional.batch_size.search import BatchGrid
from lightning_hp.functional.batch_size.steady import MAX_REPEATS, next_repeat, noise, steady_knee


def test_powers_of_two_and_their_halves():
    """Derived by listing them."""
    sizes = sorted({2**n for n in range(12)} | {3 * 2**n for n in range(11)})
    grid = BatchGrid.between(1, 2048, "half_power")
    for size in range(1, 2049):
        assert grid.down(size) == max(one for one in sizes if one <= size)
        if size < 2048:
            assert grid.up(size) == min(one for one in sizes if one > size)


def test_the_noise_is_the_standard_deviation_and_ignores_a_busy_moment():
    rng = random.Random(0)
    speeds = {size: [math.exp(rng.gauss(0, 0.03)) for _ in range(5)] for size in range(1, 200)}
    assert noise(speeds) == pytest.approx(0.03, rel=0.1)
    disturbed = {size: [*repeats[1:], repeats[0] / 4] if size % 4 == 0 else repeats for size, repeats in speeds.items()}
    assert noise(disturbed) == pytest.approx(0.03, rel=0.25)
    assert noise({8: [1.0], 16: [2.0]}) == 0


def test_without_noise_it_is_the_smallest_size_within_the_share():
    for within in (0.05, 0.15, 0.3):
        speeds = {2**n: [2**n / (20 + 2**n)] for n in range(11)}
        expected = min(n for n in speeds if speeds[n][0] >= (1 - within) * speeds[1024][0])
        assert steady_knee(speeds, within) == expected


def test_a_gain_within_the_noise_is_not_taken():
    """100 to 84 is a gain of more than 15 %, but not of more than 15 % and the noise."""
    assert steady_knee({32: [84.0] * 3, 64: [100.0] * 3}, 0.15) == 64
    assert steady_knee({32: [80.0, 84.0, 88.0], 64: [95.0, 100.0, 105.0]}, 0.15) == 32


@pytest.mark.parametrize("seed", range(20))
def test_repeats_end(seed):
    rng = random.Random(seed)
    speeds = defaultdict(list, {2**n: [rng.uniform(1, 2)] for n in range(8)})
    number = 0
    while (size := next_repeat(speeds, 0.15)) is not None:
        speeds[size].append(rng.uniform(1, 2))
        number += 1
    assert max(map(len, speeds.values())) <= MAX_REPEATS
    assert number <= 8 * MAX_REPEATS
