"""Coverage against enumeration, integer arithmetic, closed forms, simulation and the bounds that must hold."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from lightning_hp.functional import (
    batch_size_for_average,
    batch_size_for_coverage,
    batch_size_for_share,
    coverage_probability,
    covered_share,
)
from lightning_hp.functional.batch_size.class_draws import check_draws
from lightning_hp.functional.batch_size.multinomial import log_coverage


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
    """Class by class: in how many ways the first classes can fill so many places, in whole numbers."""
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


# --- the exact probability


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("seed", range(25))
def test_every_tiny_case_by_enumeration(seed, replacement):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 10, size=rng.integers(1, 5)).tolist()
    least = int(rng.integers(1, 4))
    for batch_size in range(min(10, sum(counts)) + 1):
        found = coverage_probability(batch_size, counts, least, replacement=replacement)
        assert found == pytest.approx(enumerated(batch_size, counts, least, replacement), rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize(
    ("counts", "least"), [([30] * 8, 2), ([90, 5, 40, 7, 7, 60], 2), (list(range(5, 17)), 1), ([12] * 12, 3)]
)
def test_larger_cases_by_whole_numbers(counts, least, replacement):
    for batch_size in (least * len(counts), least * len(counts) + 1, 47, 80):
        found = coverage_probability(batch_size, counts, least, replacement=replacement)
        assert found == pytest.approx(by_integers(batch_size, counts, least, replacement), rel=1e-11)


@pytest.mark.parametrize(("classes", "batch_size"), [(5, 12), (35, 105), (100, 300), (1000, 3000), (1000, 9000)])
def test_one_of_each_is_the_number_of_surjections(classes, batch_size):
    onto = sum((-1) ** i * math.comb(classes, i) * (classes - i) ** batch_size for i in range(classes + 1))
    exact = float(Fraction(onto, classes**batch_size))
    assert coverage_probability(batch_size, classes, 1) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize(("classes", "least"), [(10, 3), (100, 2), (1000, 1), (1000, 3)])
def test_a_batch_without_a_place_to_spare_is_one_multinomial_term(classes, least):
    size = classes * least
    log_term = math.lgamma(size + 1) - classes * math.lgamma(least + 1) - size * math.log(classes)
    assert log_coverage(check_draws(classes, replacement=True), size, least) == pytest.approx(log_term, rel=1e-10)


def test_a_place_to_spare_far_below_what_a_float_can_hold():
    """One class comes four times, the others three: C ways to choose it."""
    size = 3001
    log_term = math.log(1000) + math.lgamma(size + 1) - 999 * math.lgamma(4) - math.lgamma(5) - size * math.log(1000)
    assert log_coverage(check_draws(1000, replacement=True), size, 3) == pytest.approx(log_term, rel=1e-10)
    assert coverage_probability(size, 1000, 3) == 0.0


def test_large_counts_beside_a_rare_class():
    """Ten classes come for certain, 100000 times each; whether the rare one comes is one power."""
    rare = 1 / (10 * 10**6 + 1)
    for size in (10**6, 10**7):
        missed = math.exp(size * math.log1p(-rare))
        draws = check_draws([10**6] * 10 + [1], replacement=True)
        assert log_coverage(draws, size, 1) == pytest.approx(math.log(1 - missed), abs=1e-7)


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
        assert abs(found - simulated) < 4 * math.sqrt(max(found * (1 - found), 1e-4) / draws)
        share = covered_share(batch_size, counts, least, replacement=replacement)
        assert share == pytest.approx((sample >= least).mean(), abs=0.01)


@pytest.mark.parametrize(
    ("classes", "probabilities"),
    [
        (5, [0.829, 0.320, 0.0055]),
        (10, [0.629, 0.069, 4.4e-6]),
        (35, [0.156, 3.2e-5, 4.7e-22]),
        (100, [0.00415, 6.6e-14, 4.7e-64]),
        (1000, [6.2e-25, 3.4e-134, 0.0]),
    ],
)
def test_three_of_each_on_average_is_no_guarantee(classes, probabilities):
    found = [coverage_probability(batch_size_for_average(classes, 3), classes, least) for least in (1, 2, 3)]
    assert found == pytest.approx(probabilities, rel=0.02)


# --- what must hold


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
    assert np.all(np.diff(table, axis=1) >= -1e-11)  # of logarithms of factorials, which round
    assert np.all(np.diff(table, axis=0) <= 1e-11)
    assert np.all((table >= 0) & (table <= 1))


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("counts", [[40] * 20, [5, 9, 9, 30, 30, 30, 200], list(range(4, 40))])
@pytest.mark.parametrize("least", [1, 3])
def test_the_bound_is_never_too_high(counts, replacement, least):
    for size in range(1, sum(counts), 11):
        exact = coverage_probability(size, counts, least, replacement=replacement)
        bound = coverage_probability(size, counts, least, replacement=replacement, exact=False)
        assert 0 <= bound <= exact
        assert covered_share(size, counts, least, replacement=replacement) >= exact - 1e-12


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
        assert coverage_probability(sum(counts), counts, least, replacement=False, exact=False) == whole


def test_one_sample_less_than_an_epoch():
    """It misses a class of exactly k samples when the one that stays behind is of that class."""
    found = coverage_probability(199, [3, 50, 147], 3, replacement=False)
    assert found == pytest.approx(1 - 3 / 200, rel=1e-12)


@pytest.mark.parametrize("exact", [True, False])
def test_limits(exact):
    assert coverage_probability(0, 10, 0, exact=exact) == 1
    assert coverage_probability(0, 10, 1, exact=exact) == 0
    assert coverage_probability(29, 10, 3, exact=exact) == 0
    assert [coverage_probability(size, 1, 3, exact=exact) for size in (2, 3, 4)] == [0, 1, 1]
    assert coverage_probability(4, [9], 3, replacement=False, exact=exact) == 1
    assert coverage_probability(500, [10, 0], 1, exact=exact) == 0
    assert coverage_probability(500, [10, 0], 0, exact=exact) == 1
    assert coverage_probability(15, [2, 20], 3, replacement=False, exact=exact) == 0
    assert coverage_probability(10**6, 10, 3, exact=exact) == pytest.approx(1, abs=1e-9)


def test_a_thousand_classes_of_different_sizes():
    frequencies = 100.0 ** (-np.arange(1000) / 999)
    exact = coverage_probability(182_354, frequencies, 2)
    assert exact >= 0.95 > coverage_probability(182_353, frequencies, 2)
    assert exact - 0.002 < coverage_probability(182_354, frequencies, 2, exact=False) <= exact
    assert batch_size_for_coverage(0.95, frequencies, 2, exact=False) == 182_887


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
    assert [batch_size_for_coverage(q, classes, 2) for q in (0.5, 0.95, 0.99)] == twice
    assert [batch_size_for_coverage(q, classes, 3) for q in (0.5, 0.95, 0.99)] == thrice


@pytest.mark.parametrize(
    ("classes", "ratio", "twice", "thrice"),
    [(10, 10, 206, 268), (10, 100, 1193, 1572), (35, 10, 829, 1047), (35, 100, 4282, 5482), (100, 10, 2719, 3372)],
)
def test_smallest_batch_for_classes_that_are_not(classes, ratio, twice, thrice):
    frequencies = float(ratio) ** (-np.arange(classes) / (classes - 1))
    assert [batch_size_for_coverage(0.95, frequencies, least) for least in (2, 3)] == [twice, thrice]


@pytest.mark.parametrize(
    ("classes", "each", "sizes"),
    [(5, 20, [27, 34]), (10, 20, [61, 75]), (10, 500, [71, 89]), (35, 100, [294, 357]), (100, 100, [950, 1140])],
)
def test_smallest_batch_of_a_shuffled_epoch(classes, each, sizes):
    found = [batch_size_for_coverage(0.95, [each] * classes, least, replacement=False) for least in (2, 3)]
    assert found == sizes


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("counts", [[6, 6, 6], [9, 30, 30, 61], [3] * 12, [5], [700, 4]])
@pytest.mark.parametrize("coverage", [1e-6, 0.3, 0.95, 0.99999])
def test_it_is_the_smallest(counts, replacement, exact, coverage):
    for least in (0, 1, 3):
        size = batch_size_for_coverage(coverage, counts, least, replacement=replacement, exact=exact)
        reached, missed = (
            coverage_probability(b, counts, least, replacement=replacement, exact=exact) for b in (size, size - 1)
        )
        assert reached >= coverage
        assert missed < coverage or size == 1


@pytest.mark.parametrize("classes", [10, 35, 100, 1000])
def test_the_bound_asks_for_little_more(classes):
    exact, bound = (batch_size_for_coverage(0.95, classes, 3, exact=exact) for exact in (True, False))
    assert exact <= bound <= 1.014 * exact


@pytest.mark.parametrize("exact", [True, False])
def test_no_batch_will_do(exact):
    assert batch_size_for_coverage(0.5, [10, 0], 1, exact=exact) is None
    assert batch_size_for_coverage(0.5, [10, 2], 3, replacement=False, exact=exact) is None
    assert batch_size_for_coverage(0.5, [10, 0], 0, exact=exact) == 1
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
    assert batch_size_for_average([10, 90], 3) == 30  # the rarest is a tenth of what is drawn
    assert batch_size_for_average([3, 4], 2) == 5
    assert batch_size_for_average(5, 0) == 1


# --- bad input


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((-1, 10, 2), {}, "`batch_size` to be an int >= 0, but got -1"),
        ((1.5, 10, 2), {}, "`batch_size` to be an int >= 0, but got 1.5"),
        ((5, 10, -2), {}, "`min_per_class` to be an int >= 0, but got -2"),
        ((5, 10, math.nan), {}, "`min_per_class`"),
        ((5, 0, 2), {}, "a number of classes >= 1, but got 0"),
        ((5, 2.5, 2), {}, "a number of classes >= 1, but got 2.5"),
        ((5, math.inf, 2), {}, "a number of classes >= 1, but got inf"),
        ((5, [], 2), {}, r"one row with the samples of each class, but got shape \(0,\)"),
        ((5, [[1, 2]], 2), {}, r"but got shape \(1, 2\)"),
        ((5, [3, -1], 2), {}, r"but got shape \(2,\): \[ 3\. -1\.\]"),
        ((5, [3, math.nan], 2), {}, "one row"),
        ((5, [0, 0], 2), {}, "one row"),
        ((5, 10, 2), {"replacement": False}, "Pass the counts, or replacement=True"),
        ((1, [1.5, 2], 1), {"replacement": False}, "whole `class_counts`"),
        ((9, [4, 4], 1), {"replacement": False}, "`batch_size` <= 8, the samples there are, but got 9"),
    ],
)
def test_bad_batches_and_classes(args, options, message):
    for function in (coverage_probability, covered_share):
        with pytest.raises(ValueError, match=message):
            function(*args, **options)


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, math.nan])
def test_bad_probabilities(value):
    with pytest.raises(ValueError, match="`coverage` to be > 0 and < 1, but got"):
        batch_size_for_coverage(value, 10, 2)
    with pytest.raises(ValueError, match="`share` to be > 0 and < 1, but got"):
        batch_size_for_share(value, 10, 2)


def test_bad_averages():
    with pytest.raises(ValueError, match="a class without samples is in no batch"):
        batch_size_for_average([3, 0], 2)
    with pytest.raises(ValueError, match="`min_per_class` to be an int >= 0"):
        batch_size_for_average(3, 2.5)
