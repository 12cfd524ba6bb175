"""Coverage against its closed form, exact values by enumeration and by integer arithmetic, and simulation."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch

from lightning_hp.functional import (
    batch_size_for_average,
    batch_size_for_coverage,
    batch_size_for_share,
    coverage_probability,
    covered_share,
)


def enumerated(batch_size, counts, least, replacement):
    """The sum over every way in which a batch may be made up."""
    total, probability = sum(counts), Fraction(0)
    for made_up in itertools.product(range(least, batch_size + 1), repeat=len(counts)):
        if sum(made_up) != batch_size:
            continue
        if replacement:
            ways = Fraction(math.factorial(batch_size))
            for count, times in zip(counts, made_up, strict=True):
                ways *= Fraction(count, total) ** times / math.factorial(times)
        else:
            chosen = math.prod(math.comb(count, times) for count, times in zip(counts, made_up, strict=True))
            ways = Fraction(chosen, math.comb(total, batch_size))
        probability += ways
    return float(probability)


def by_integers(batch_size, counts, least, replacement):
    """Adds class by class: the number of ways in which the first classes fill a number of places, in integers."""
    ways = [1] + [0] * batch_size
    for count in counts:
        filled = [0] * (batch_size + 1)
        for before, known in enumerate(ways):
            for times in range(least, batch_size - before + 1):
                places = math.comb(before + times, times) * count**times if replacement else math.comb(count, times)
                filled[before + times] += known * places
        ways = filled
    every = sum(counts) ** batch_size if replacement else math.comb(sum(counts), batch_size)
    return float(Fraction(ways[batch_size], every))


@cache
def tail(size, count, total, least, replacement):
    """The probability that a class of ``count`` of ``total`` samples comes ``least`` times or more, by integers."""
    if replacement:
        ways = [math.comb(size, j) * count**j * (total - count) ** (size - j) for j in range(min(least, size + 1))]
        return float(1 - Fraction(sum(ways), total**size))
    ways = [math.comb(count, j) * math.comb(total - count, size - j) for j in range(min(least, size + 1))]
    return float(1 - Fraction(sum(ways), math.comb(total, size)))


def product_of_tails(size, counts, least, replacement):
    if size < least * len(counts):
        return 0.0
    return math.prod(tail(size, count, sum(counts), least, replacement) for count in counts)


def assert_is_close_from_above(found, exact):
    """Within the errors that the docstring states."""
    error = 0.005 if exact >= 0.9 else 0.07 if exact >= 0.5 else 0.17
    assert exact - 1e-9 <= found <= exact + error


def assert_is_close_from_below(found, exact, coverage):
    """Within the errors that the docstring states; exact sizes are those of Levin's representation (1981)."""
    assert exact - (1 if coverage >= 0.95 else max(2, 0.01 * exact)) <= found <= exact


# --- the probability


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("seed", range(25))
def test_every_tiny_case_by_enumeration(seed, replacement):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 10, size=rng.integers(1, 5)).tolist()
    least = int(rng.integers(1, 4))
    for batch_size in range(min(10, sum(counts)) + 1):
        found = coverage_probability(batch_size, counts, least, replacement=replacement)
        assert found == pytest.approx(product_of_tails(batch_size, counts, least, replacement), rel=1e-9, abs=1e-12)
        assert_is_close_from_above(found, enumerated(batch_size, counts, least, replacement))


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize(
    ("counts", "least"), [([30] * 8, 2), ([90, 5, 40, 7, 7, 60], 2), (list(range(5, 17)), 1), ([12] * 12, 3)]
)
def test_larger_cases_by_whole_numbers(counts, least, replacement):
    for batch_size in (least * len(counts), least * len(counts) + 1, 47, 80):
        found = coverage_probability(batch_size, counts, least, replacement=replacement)
        assert found == pytest.approx(product_of_tails(batch_size, counts, least, replacement), rel=1e-9, abs=1e-12)
        assert_is_close_from_above(found, by_integers(batch_size, counts, least, replacement))


@pytest.mark.parametrize(("classes", "batch_size"), [(5, 12), (35, 105), (100, 300), (1000, 3000), (1000, 9000)])
def test_one_of_each_against_the_number_of_surjections(classes, batch_size):
    onto = sum((-1) ** i * math.comb(classes, i) * (classes - i) ** batch_size for i in range(classes + 1))
    exact = float(Fraction(onto, classes**batch_size))
    found = coverage_probability(batch_size, classes, 1)
    assert found == pytest.approx((1 - (1 - 1 / classes) ** batch_size) ** classes, rel=1e-9)
    assert_is_close_from_above(found, exact)


def test_large_counts_beside_a_rare_class():
    """Ten classes come with certainty, 100000 times each. The rare one is missing with a probability in closed form."""
    rare = 1 / (10 * 10**6 + 1)
    for size in (10**6, 10**7):
        missed = math.exp(size * math.log1p(-rare))
        assert coverage_probability(size, [10**6] * 10 + [1]) == pytest.approx(1 - missed, rel=1e-9)


@pytest.mark.parametrize(
    ("batch_size", "counts", "least"),
    [(20, [1] * 5, 2), (60, [50, 30, 15, 5], 2), (40, [8, 8, 8, 20, 40], 3), (90, [20] * 10, 3)],
)
def test_simulated_batches(batch_size, counts, least):
    rng, draws = np.random.default_rng(0), 20_000
    with_replacement = rng.multinomial(batch_size, np.array(counts) / sum(counts), size=draws)
    samples = {True: with_replacement}
    if batch_size < sum(counts):
        samples[False] = rng.multivariate_hypergeometric(counts, batch_size, size=draws)
    for replacement, sample in samples.items():
        found = coverage_probability(batch_size, counts, least, replacement=replacement)
        simulated = (sample >= least).all(axis=1).mean()
        noise = 4 * math.sqrt(max(found * (1 - found), 1e-4) / draws)
        error = 0.005 if simulated >= 0.9 else 0.07 if simulated >= 0.5 else 0.17
        assert simulated - noise < found < simulated + error + noise
        share = covered_share(batch_size, counts, least, replacement=replacement)
        assert share == pytest.approx((sample >= least).mean(), abs=0.01)


@pytest.mark.parametrize(
    ("classes", "exact"),
    [
        (5, [0.829, 0.320, 0.0055]),
        (10, [0.629, 0.069, 4.4e-6]),
        (35, [0.156, 3.2e-5, 4.7e-22]),
        (100, [0.00415, 6.6e-14, 4.7e-64]),
        (1000, [6.2e-25, 3.4e-134, 0.0]),
    ],
)
def test_three_of_each_on_average_is_no_guarantee(classes, exact):
    found = [coverage_probability(batch_size_for_average(classes, 3), classes, least) for least in (1, 2, 3)]
    assert found == pytest.approx([product_of_tails(3 * classes, [1] * classes, k, True) for k in (1, 2, 3)], rel=1e-9)
    for value, expected in zip(found, exact, strict=True):
        assert_is_close_from_above(value, expected)


# --- invariances


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("counts", [[40] * 20, [5, 9, 9, 30, 30, 30, 200], list(range(4, 40))])
def test_more_samples_cover_more_and_more_often_is_rarer(counts, replacement):
    table = np.array(
        [
            [coverage_probability(size, counts, least, replacement=replacement) for size in range(1, sum(counts), 7)]
            for least in range(5)
        ]
    )
    assert np.all(table[0] == 1)
    assert np.all(np.diff(table, axis=1) >= -1e-11)  # logarithms of factorials round
    assert np.all(np.diff(table, axis=0) <= 1e-11)
    assert np.all((table >= 0) & (table <= 1))


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("counts", [[40] * 20, [5, 9, 9, 30, 30, 30, 200], list(range(4, 40))])
@pytest.mark.parametrize("least", [1, 3])
def test_it_lies_between_the_sum_of_the_misses_and_the_rarest_class(counts, replacement, least):
    for size in range(least * len(counts), sum(counts), 11):
        found = coverage_probability(size, counts, least, replacement=replacement)
        misses = [1 - tail(size, count, sum(counts), least, replacement) for count in counts]
        assert 1 - sum(misses) - 1e-9 <= found <= 1 - max(misses) + 1e-9
        assert covered_share(size, counts, least, replacement=replacement) >= found - 1e-12


def test_equal_classes_are_equal_however_they_are_given():
    found = coverage_probability(80, 10, 3)
    for counts in ([7] * 10, np.full(10, 0.1), [1e6] * 10, np.full(10, 3, dtype=np.int8)):
        assert coverage_probability(80, counts, 3) == pytest.approx(found, rel=1e-12)
    assert coverage_probability(np.int64(80), np.int32(10), 3) == found


def test_the_order_of_classes_does_not_matter_and_near_equals_are_near():
    counts = np.array([30, 50, 50, 70, 20, 20, 20])
    for replacement in (True, False):
        found = coverage_probability(60, counts, 2, replacement=replacement)
        assert coverage_probability(60, counts[::-1], 2, replacement=replacement) == found
    apart = counts * (1 + 1e-9 * np.arange(7))  # seven rows instead of four
    assert coverage_probability(60, apart, 2) == pytest.approx(coverage_probability(60, counts, 2), rel=1e-6)


def test_a_shuffled_epoch_covers_better_and_a_large_one_alike():
    exact = coverage_probability(30, 10, 2)
    apart = [coverage_probability(30, [n] * 10, 2, replacement=False) - exact for n in (4, 20, 100, 10_000, 1_000_000)]
    assert sorted(apart, reverse=True) == apart
    assert 0 < apart[-1] < 1e-6


@pytest.mark.parametrize("counts", [[3, 5, 9], [3, 3, 3], [4, 100]])
def test_a_whole_epoch_covers_iff_every_class_has_enough(counts):
    for least in range(6):
        whole = coverage_probability(sum(counts), counts, least, replacement=False)
        assert whole == float(min(counts) >= least)


def test_one_sample_less_than_an_epoch():
    """A class of exactly k samples is incomplete if the sample that is left out belongs to it."""
    found = coverage_probability(199, [3, 50, 147], 3, replacement=False)
    assert found == pytest.approx(1 - 3 / 200, rel=1e-9)


def test_limits():
    assert coverage_probability(0, 10, 0) == 1
    assert coverage_probability(0, 10, 1) == 0
    assert coverage_probability(29, 10, 3) == 0
    assert [coverage_probability(size, 1, 3) for size in (2, 3, 4)] == [0, 1, 1]
    assert coverage_probability(4, [9], 3, replacement=False) == 1
    assert coverage_probability(500, [10, 0], 1) == 0
    assert coverage_probability(500, [10, 0], 0) == 1
    assert coverage_probability(15, [2, 20], 3, replacement=False) == 0
    assert coverage_probability(10**6, 10, 3) == pytest.approx(1, abs=1e-9)


def test_a_default_device_does_not_matter():
    expected = coverage_probability(30, [20, 30], 2, replacement=False), coverage_probability(30, 10, 2)
    with torch.device("meta"):
        found = coverage_probability(30, [20, 30], 2, replacement=False), coverage_probability(30, 10, 2)
    assert found == expected


def test_a_thousand_classes_of_different_sizes():
    """The exact answer is 182354."""
    frequencies = 100.0 ** (-np.arange(1000) / 999)
    assert coverage_probability(182_353, frequencies, 2) >= 0.95 > coverage_probability(182_352, frequencies, 2)
    assert batch_size_for_coverage(0.95, frequencies, 2) == 182_353


# --- the smallest batch


@pytest.mark.parametrize(
    ("classes", "twice", "thrice"),
    [
        (5, [18, 31, 39], [25, 39, 48]),
        (10, [44, 71, 89], [59, 89, 108]),
        (35, [205, 305, 367], [264, 373, 440]),
        (100, [706, 993, 1170], [887, 1198, 1387]),
        (1000, [9638, 12474, 14225], [11665, 14690, 16541]),
    ],
)
def test_smallest_batch_for_balanced_classes(classes, twice, thrice):
    for least, exact in ((2, twice), (3, thrice)):
        for coverage, size in zip((0.5, 0.95, 0.99), exact, strict=True):
            assert_is_close_from_below(batch_size_for_coverage(coverage, classes, least), size, coverage)


@pytest.mark.parametrize(
    ("classes", "ratio", "twice", "thrice"),
    [(10, 10, 206, 268), (10, 100, 1193, 1572), (35, 10, 829, 1047), (35, 100, 4282, 5482), (100, 10, 2719, 3372)],
)
def test_smallest_batch_for_classes_that_are_not(classes, ratio, twice, thrice):
    frequencies = float(ratio) ** (-np.arange(classes) / (classes - 1))
    for least, exact in ((2, twice), (3, thrice)):
        assert_is_close_from_below(batch_size_for_coverage(0.95, frequencies, least), exact, 0.95)


@pytest.mark.parametrize(
    ("classes", "each", "sizes"),
    [(5, 20, [27, 34]), (10, 20, [61, 75]), (10, 500, [71, 89]), (35, 100, [294, 357]), (100, 100, [950, 1140])],
)
def test_smallest_batch_of_a_shuffled_epoch(classes, each, sizes):
    for least, exact in zip((2, 3), sizes, strict=True):
        found = batch_size_for_coverage(0.95, [each] * classes, least, replacement=False)
        assert_is_close_from_below(found, exact, 0.95)


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("counts", [[6, 6, 6], [9, 30, 30, 61], [3] * 12, [5], [700, 4]])
@pytest.mark.parametrize("coverage", [1e-6, 0.3, 0.95, 0.99999])
def test_it_is_the_smallest(counts, replacement, coverage):
    for least in (0, 1, 3):
        size = batch_size_for_coverage(coverage, counts, least, replacement=replacement)
        reached, missed = (coverage_probability(b, counts, least, replacement=replacement) for b in (size, size - 1))
        assert reached >= coverage
        assert missed < coverage or size == 1


def test_no_batch_will_do():
    assert batch_size_for_coverage(0.5, [10, 0], 1) is None
    assert batch_size_for_coverage(0.5, [10, 2], 3, replacement=False) is None
    assert batch_size_for_coverage(0.5, [10, 0], 0) == 1
    assert batch_size_for_share(0.6, [10, 0], 1) is None
    assert batch_size_for_share(0.6, [10, 2], 3, replacement=False) is None
    assert batch_size_for_share(0.4, [10, 2], 3, replacement=False) is not None


# --- shares and averages


@pytest.mark.parametrize("classes", [5, 10, 35, 100, 1000])
def test_share_of_balanced_classes_is_one_binomial_tail(classes):
    p, size = Fraction(1, classes), 3 * classes
    for least in (1, 2, 3):
        tail = sum(math.comb(size, j) * p**j * (1 - p) ** (size - j) for j in range(least))
        assert covered_share(size, classes, least) == pytest.approx(float(1 - tail), rel=1e-12)


def test_share_of_unequal_classes_is_the_mean_of_each():
    counts, size = [10, 20, 20, 50], 12
    rarely = [
        sum(math.comb(count, j) * math.comb(100 - count, size - j) for j in range(2)) / math.comb(100, size)
        for count in counts
    ]
    found = covered_share(size, counts, 2, replacement=False)
    assert found == pytest.approx(1 - sum(rarely) / 4, rel=1e-12)


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("replacement", [True, False])
def test_smallest_batch_for_a_share(share, replacement):
    counts = [40, 40, 30, 20, 8]
    size = batch_size_for_share(share, counts, 3, replacement=replacement)
    reached, missed = (covered_share(b, counts, 3, replacement=replacement) for b in (size, size - 1))
    assert reached >= share > missed


def test_a_share_is_within_reach_where_all_classes_are_not():
    per_class = [batch_size_for_share(0.95, classes, 3) / classes for classes in (10, 100, 1000)]
    assert all(6.0 <= times <= 6.3 for times in per_class)
    assert batch_size_for_coverage(0.95, 1000, 3) > 14 * 1000


def test_the_average_rule():
    assert batch_size_for_average(5, 3) == 15
    assert batch_size_for_average(35, 2) == 70
    assert batch_size_for_average([20] * 5, 3) == 15
    assert batch_size_for_average([10, 90], 3) == 6  # on average over the classes
    assert batch_size_for_average([3, 4], 2) == 4
    assert batch_size_for_average(5, 0) == 1


# --- bad input


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((-1, 10, 2), {}, ValueError, "`batch_size` to be an int >= 0, but got -1"),
        ((1.5, 10, 2), {}, TypeError, "`batch_size` to be an int >= 0, but got 1.5"),
        ((10**400, 10, 2), {}, ValueError, r"`batch_size` to be an int >= 0 and at most 2\*\*53, but got 1000"),
        ((5, 10, -2), {}, ValueError, "`min_per_class` to be an int from 0 to 100000, but got -2"),
        ((5, 10, math.nan), {}, TypeError, "`min_per_class`"),
        ((5, 0, 2), {}, ValueError, r"`class_counts` to be an int >= 1, or the samples of each class, .* but got 0"),
        ((5, 2.5, 2), {}, TypeError, "`class_counts` to be an int >= 1, or the samples of each class, .* but got 2.5"),
        (
            (5, math.inf, 2),
            {},
            TypeError,
            "`class_counts` to be an int >= 1, or the samples of each class, .* but got inf",
        ),
        ((5, "ab", 2), {}, TypeError, "`class_counts` to be a number of classes >= 1, or the samples of each class"),
        (
            (5, [], 2),
            {},
            ValueError,
            r"`class_counts.shape` to be \(classes,\) with at least one class, but got \(0,\)",
        ),
        ((5, [[1, 2]], 2), {}, ValueError, r"but got \(1, 2\)"),
        ((5, [3, -1], 2), {}, ValueError, r"finite numbers >= 0, not all of them 0, but got \[3.0, -1.0\]"),
        ((5, [3, math.nan], 2), {}, ValueError, "finite numbers"),
        ((5, [0, 0], 2), {}, ValueError, "not all of them 0"),
        ((5, 10, 2), {"replacement": False}, ValueError, "the samples of each class .*`replacement=True`"),
        ((5, 10, 2), {"replacement": 1}, TypeError, "`replacement` to be True or False, but got 1"),
        ((1, [1.5, 2], 1), {"replacement": False}, ValueError, "`class_counts` to be whole numbers"),
        (
            (9, [4, 4], 1),
            {"replacement": False},
            ValueError,
            "`batch_size` to be <= 8, the samples of an epoch, but got 9",
        ),
    ],
)
def test_bad_batches_and_classes(args, options, error, message):
    for function in (coverage_probability, covered_share):
        with pytest.raises(error, match=message):
            function(*args, **options)


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, math.nan])
def test_bad_probabilities(value):
    with pytest.raises(ValueError, match="`coverage` to be a number > 0 and < 1, but got"):
        batch_size_for_coverage(value, 10, 2)
    with pytest.raises(ValueError, match="`share` to be a number > 0 and < 1, but got"):
        batch_size_for_share(value, 10, 2)


def test_bad_averages():
    with pytest.raises(ValueError, match="no batch contains a class without samples, but got"):
        batch_size_for_average([3, 0], 2)
    with pytest.raises(TypeError, match="`min_per_class` to be an int from 0 to 100000"):
        batch_size_for_average(3, 2.5)


def test_a_class_that_is_too_rare_for_any_batch():
    assert batch_size_for_coverage(0.5, [1e-300, 1.0]) is None
    assert batch_size_for_share(0.9, [1e-300, 1.0]) is None
