"""Comparison of settings: against paired t tests, a slow loop, and simulated scores of which the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from lightning_hp.functional import compare_settings


def test_two_settings_are_compared_by_the_paired_t_interval():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, 5)) + rng.normal(size=5)

    compared = compare_settings(scores, confidence=0.9)

    worse, better = sorted(range(2), key=lambda row: scores[row].mean())
    interval = stats.ttest_rel(scores[worse], scores[better]).confidence_interval(0.9)
    assert compared.best == better
    assert compared.differences[worse] == pytest.approx((interval.low + interval.high) / 2)
    assert compared.margins[worse] == pytest.approx((interval.high - interval.low) / 2, rel=1e-4)


def test_the_error_is_that_of_a_block_design():
    scores = np.array([[1.0, 2.0, 4.0], [2.0, 2.5, 4.5], [2.5, 3.0, 4.0], [1.5, 2.5, 4.6]])
    rows, seeds = scores.shape
    squares = 0.0
    for row in range(rows):
        for seed in range(seeds):
            expected = scores[row].mean() + scores[:, seed].mean() - scores.mean()
            squares += (scores[row, seed] - expected) ** 2
    error = math.sqrt(2 * squares / ((rows - 1) * (seeds - 1)) / seeds)

    compared = compare_settings(scores)

    assert [value for row, value in enumerate(compared.errors) if row != compared.best] == pytest.approx([error] * 3)
    assert compared.standard_errors == pytest.approx([row.std(ddof=1) / math.sqrt(3) for row in scores])


@pytest.mark.parametrize(("rows", "seeds"), [(4, 3), (8, 5)])
def test_equal_settings_are_seldom_told_apart(rows: int, seeds: int):
    rng = np.random.default_rng(1)
    tables = [rng.normal(size=(rows, seeds)) + rng.normal(scale=5, size=seeds) for _ in range(400)]

    wrong = sum(len(compare_settings(table).ties) < rows for table in tables)

    assert wrong <= 0.05 * 400 + 3 * math.sqrt(400 * 0.05 * 0.95)


def test_a_setting_that_diverges_hides_no_difference_between_the_others_and_is_worse():
    rng = np.random.default_rng(2)
    tables = []
    for _ in range(100):
        table = rng.normal(size=(6, 3)) + rng.normal(size=3)
        table[0] -= [50, 20, 80]
        table[1] -= 10
        tables.append(table)

    ties = [compare_settings(table).ties for table in tables]

    assert sum(0 in found or 1 in found for found in ties) <= 3
    assert sum(not {2, 3, 4, 5} <= set(found) for found in ties) <= 10


def test_lower_is_better_mirrors_higher_is_better():
    scores = np.random.default_rng(3).normal(size=(5, 4))

    low, high = compare_settings(scores, "min"), compare_settings(-scores, "max")

    assert (low.best, low.ties, low.within_one_error) == (high.best, high.ties, high.within_one_error)
    assert low.differences == pytest.approx([-value for value in high.differences])


def test_rows_with_a_missing_training_are_left_out():
    scores = np.array([[0.1, 0.2, 0.3], [0.9, math.nan, 0.9], [0.2, 0.3, 0.5]])

    compared = compare_settings(scores)
    without = compare_settings(scores[[0, 2]])

    assert compared.best == 2
    assert math.isnan(compared.means[1])
    assert math.isnan(compared.differences[1])
    assert (compared.margins[0], compared.margins[2]) == pytest.approx(without.margins)


def test_with_one_seed_the_best_is_known_and_nothing_else():
    compared = compare_settings([[0.5], [0.7], [0.69]])

    assert compared.best == 1
    assert compared.ties == compared.within_one_error == (1,)
    assert all(map(math.isnan, compared.margins))


def test_nothing_is_best_if_every_row_lacks_a_training():
    compared = compare_settings([[math.nan, 1.0], [1.0, math.nan]])

    assert compared.best is None
    assert compared.ties == ()


def test_equal_scores_tie():
    assert compare_settings(np.ones((3, 3))).ties == (0, 1, 2)
