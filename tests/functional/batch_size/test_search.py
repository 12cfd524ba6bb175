"""The search over every limit, with inconsistent probes and known faults of other tools; memory; throughput."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from lightning_hp.functional import (
    predict_batch_size,
    predict_peak,
    search_batch_size,
    throughput_is_flat,
    throughput_knee,
)

LIMITS = range(1, 3001)

# Batch size and peak memory in MiB, as measured.
RESNET50 = [(1, 354), (2, 420), (4, 580), (8, 899), (16, 1537), (32, 2849), (64, 5495), (256, 21371)]
VIT = [(1, 993), (2, 997), (4, 1130), (8, 1588), (32, 4334), (128, 15318)]


class Probe:
    """Fits up to a limit, and records the sizes that it is called with."""

    def __init__(self, limit):
        self.limit = limit
        self.asked = []

    def __call__(self, batch_size):
        assert type(batch_size) is int
        assert batch_size >= 1
        self.asked.append(batch_size)
        return batch_size <= self.limit


def search(limit, **options):
    """Runs a search. Its trials are the calls of the probe, and its result is the last size that ran."""
    probe = Probe(limit)
    found = search_batch_size(probe, **options)
    assert found.trials == tuple((size, size <= limit) for size in probe.asked)
    if found.ended in ("failure", "max_val"):
        assert found.trials[-1] == (found.batch_size, True)
    return found


# --- over all limits


@pytest.mark.parametrize("init_val", [1, 2, 16, 100, 512, 5000])
def test_the_largest_that_fits_for_every_limit(init_val):
    for limit in LIMITS:
        found = search(limit, init_val=init_val)
        assert found.batch_size == limit
        assert found.ended == "failure"
        assert found.smallest_failed == limit + 1
        assert len(found.trials) <= 2 * math.ceil(math.log2(max(limit, init_val))) + 4


@pytest.mark.parametrize("max_val", [1, 2, 3, 63, 64, 65, 1000])
def test_every_limit_and_every_bound(max_val):
    for limit in range(1, 1101):
        found = search(limit, max_val=max_val)
        assert found.batch_size == min(limit, max_val)
        assert found.ended == ("max_val" if limit >= max_val else "failure")
        assert max(size for size, _ in found.trials) <= max_val


def test_powers_of_two():
    for limit in LIMITS:
        found = search(limit, round_to="power", init_val=24)
        assert found.batch_size == 2 ** int(math.log2(limit))
        assert all(size & (size - 1) == 0 for size, _ in found.trials)


@pytest.mark.parametrize("multiple", [2, 8, 12])
def test_multiples(multiple):
    allowed = sorted({2**i for i in range(5) if 2**i < multiple} | set(range(multiple, 4000, multiple)))
    for limit in LIMITS:
        found = search(limit, round_to=multiple, max_val=3999)
        assert found.batch_size == max(size for size in allowed if size <= limit)
        assert {size for size, _ in found.trials} <= set(allowed)


def test_a_tolerance_saves_trials_and_keeps_its_word():
    exact = tolerant = 0
    for limit in LIMITS:
        found = search(limit, tolerance=0.05)
        assert found.smallest_failed - found.batch_size <= max(1, 0.05 * found.batch_size)
        assert found.batch_size > 0.95 * limit - 1
        exact += len(search(limit).trials)
        tolerant += len(found.trials)
    assert tolerant < 0.75 * exact


def test_a_margin_is_taken_off_what_memory_set_and_is_run():
    for limit in LIMITS:
        found = search(limit, margin=0.1)
        assert found.batch_size == limit - int(limit * 0.1)
    assert search(4000, margin=0.1, max_val=4000).batch_size == 4000
    assert search(100, margin=0.1, round_to=8).batch_size == 80


@pytest.mark.parametrize("max_trials", range(1, 20))
def test_a_budget_is_kept_and_the_answer_has_run(max_trials):
    for limit in range(1, 600):
        found = search(limit, max_trials=max_trials, init_val=8)
        assert len(found.trials) <= max_trials
        if found.batch_size is None:
            assert found.ended == "max_trials"
            assert not any(fitted for _, fitted in found.trials)
        else:
            assert found.batch_size == max(size for size, fitted in found.trials if fitted)
    assert search(100, max_trials=19, init_val=8).ended == "failure"


@pytest.mark.parametrize("max_trials", range(1, 16))
def test_a_margin_without_trials_left_answers_with_what_ran(max_trials):
    for limit in range(1, 400):
        found = search(limit, max_trials=max_trials, margin=0.1)
        assert found.batch_size is None or (found.batch_size, True) in found.trials
    assert search(3, max_trials=2, margin=0.1).trials == ((2, True), (4, False))
    assert search(3, max_trials=2, margin=0.1).batch_size == 2


def test_it_starts_where_it_is_told_on_the_grid():
    assert search(100, init_val=20).trials[0] == (20, True)
    assert search(100, init_val=20, round_to=8).trials[0] == (16, True)
    assert search(100, init_val=20, max_val=12).trials[0] == (12, True)
    assert search(100, init_val=2, min_val=6).trials[0] == (6, True)
    assert search(100, init_val=2, min_val=6, round_to="power").trials[0] == (8, True)


def test_it_never_goes_below_the_smallest():
    for limit, init_val in itertools.product(range(1, 40), (3, 5, 64)):
        found = search(limit, init_val=init_val, min_val=3)
        assert min(size for size, _ in found.trials) >= 3
        assert found.batch_size == (limit if limit >= 3 else None)


# --- predictions from memory


def measured_search(peak_of, budget, **options):
    """A search with a probe that measures memory: a size fits if its peak is within the budget."""
    points = []

    def fits(batch_size):
        points.append((batch_size, peak_of(batch_size)))
        return points[-1][1] <= budget

    return search_batch_size(fits, predict=lambda: predict_batch_size(points, budget), **options)


def convex(batch_size):
    """Optimizer, then activations, then activations and a workspace: the maximum of lines."""
    return max(500 + 0.1 * batch_size, 100 + batch_size, -50 + 1.2 * batch_size)


def test_memory_guides_to_the_same_answer_in_fewer_trials():
    guided = unguided = 0
    for limit in range(10, 3001, 7):
        found = measured_search(convex, convex(limit))
        assert found.batch_size == limit
        assert found.trials[-1] == (limit, True)
        guided += len(found.trials)
        unguided += len(search(limit).trials)
    assert guided < 0.7 * unguided


@pytest.mark.parametrize("max_jump", [2, 4, 10])
def test_jumps_are_limited(max_jump):
    for limit in range(10, 3001, 77):
        found = measured_search(convex, convex(limit), max_jump=max_jump)
        fitted = 0
        for size, ok in found.trials:
            assert not fitted or size <= max_jump * fitted
            fitted = max(fitted, size) if ok else fitted


@pytest.mark.parametrize(("max_jump", "worst"), [(2, 1.18), (4, 1.26)])
@pytest.mark.parametrize("points", [RESNET50, VIT], ids=["resnet50", "vit"])
def test_guided_overshoot_stays_near_the_budget(points, max_jump, worst):
    """The headroom above the budget has to hold this much. Doubling without a prediction takes twice the budget."""
    sizes, peaks = zip(*points, strict=True)

    def peak_of(size):
        return float(np.interp(size, sizes, peaks))

    for budget in range(int(peaks[0]) + 200, peaks[-1], 97):
        found = measured_search(peak_of, budget, max_val=sizes[-1], max_jump=max_jump)
        assert max(peak_of(size) for size, _ in found.trials) <= (worst if found.batch_size >= 8 else 1.47) * budget
        assert peak_of(found.batch_size) <= budget < peak_of(found.batch_size + 1)


ADVICE = {
    "zero": lambda: 0,
    "negative": lambda: -math.inf,
    "one": lambda: 1.0,
    "endless": lambda: math.inf,
    "huge": lambda: 1e9,
    "no number": lambda: math.nan,
    "nothing": lambda: None,
}


@pytest.mark.parametrize("advice", ADVICE.values(), ids=ADVICE)
def test_wrong_advice_costs_trials_and_no_answer(advice):
    for limit in range(1, 3001, 3):
        found = search(limit, predict=advice, max_trials=50)
        assert found.batch_size == limit


def test_random_advice_costs_trials_and_no_answer():
    rng = random.Random(0)
    for limit in range(1, 3001, 3):
        found = search(limit, predict=lambda: rng.choice([None, rng.uniform(-5, 4000)]), max_trials=50)
        assert found.batch_size == limit


# --- inconsistent probes


@pytest.mark.parametrize("seed", range(300))
def test_a_probe_that_answers_at_random(seed):
    rng = random.Random(seed)
    chance = rng.choice([0.1, 0.5, 0.8, 0.95])
    options = {
        "max_trials": 10_000,
        "margin": rng.choice([0.0, 0.1]),
        "round_to": rng.choice([1, 8, "power"]),
        "init_val": rng.choice([1, 2, 300]),
        "predict": rng.choice([None, lambda: rng.uniform(0, 3000)]),
    }
    found = search_batch_size(lambda batch_size: rng.random() < chance, max_val=3000, **options)
    assert len(found.trials) < 300
    if found.batch_size is None:
        assert found.trials[-1][1] is False
    else:
        assert found.trials[-1] == (found.batch_size, True)
        assert all(fitted or size > found.batch_size for size, fitted in found.trials)


def test_a_size_that_fits_once_and_then_fails_is_withdrawn():
    """After memory ran out once it is fragmented: only 60 fit from then on."""
    limits = [1000]

    def fits(batch_size):
        fitted = batch_size <= min(limits[0], 100)
        if not fitted:
            limits[0] = 60
        return fitted

    found = search_batch_size(fits)
    assert (64, True) in found.trials
    assert (64, False) in found.trials
    assert found.batch_size == 60
    assert found.trials[-1] == (60, True)


def test_a_withdrawn_size_without_trials_left():
    answers = iter([True, True, True, False, False, False])  # 2, 4, 8, 16, 12, and 8 again
    found = search_batch_size(lambda _: next(answers), max_trials=6)
    assert found.trials[-1] == (8, False)
    assert found.batch_size == 4
    assert found.ended == "max_trials"


def test_all_sizes_withdrawn():
    answers = iter([True, False, False, False])  # 2, 4, 3, and 2 again
    found = search_batch_size(lambda _: next(answers, False))
    assert found.batch_size is None
    assert found.ended == "nothing_fits"


@pytest.mark.parametrize("hole", [4, 16, 24, 48, 64])
def test_a_hole_is_never_the_answer(hole):
    """One size runs a kernel that needs more memory. The result is smaller or larger than it, and has run."""
    found = search_batch_size(lambda batch_size: batch_size <= 100 and batch_size != hole)
    assert found.batch_size != hole
    assert found.batch_size == (100 if hole in (24, 48) else hole - 1)


def test_what_the_probe_raises_is_raised():
    def fits(batch_size):
        if batch_size > 4:
            raise KeyError("a bug of the user")
        return True

    with pytest.raises(KeyError, match="a bug of the user"):
        search_batch_size(fits)


def test_any_truth_will_do():
    assert search_batch_size(lambda batch_size: np.bool_(batch_size <= 5)).trials[0] == (2, True)


# --- known faults of other tools


def test_max_val_is_run_and_not_passed():
    """Lightning's `power` returns 128 for max_val=100, having run 64, and its `binsearch` 95."""
    found = search(10**9, max_val=100)
    assert found.batch_size == 100
    assert search(10**9, max_val=100, round_to="power").batch_size == 64
    assert search(10**9, max_val=64).trials[-1] == (64, True)  # there 64, and the largest run is 32


def test_nothing_is_taken_off_where_nothing_ran_out():
    """Lightning's `binsearch` returns 1945 of 2048, and has run neither."""
    assert search(10**9, max_val=2048, margin=0.05).batch_size == 2048


def test_without_a_limit_the_answer_has_run():
    """Lightning's `power` returns 8192, having run 4096; 2048 of 1280 samples; 1024 where drop_last leaves none."""
    assert search(10**9).trials[-1] == (8192, True)
    assert search(10**9, max_val=1280).batch_size == 1280
    assert search(10**9, max_val=1000).batch_size == 1000


@pytest.mark.parametrize(("samples", "limit"), [(100, 64), (150, 139)])
def test_the_size_that_just_failed_is_not_the_answer(samples, limit):
    """Lightning's `power` returns 128 and 256 there, which fail in the training."""
    assert search(limit, max_val=samples).batch_size == limit


def test_it_ends_where_the_dataset_does():
    """Lightning's `binsearch` tries 128 for ever on 100 samples of which 64 fit."""
    found = search(64, max_val=100)
    assert found.batch_size == 64
    assert len(found.trials) < 16


def test_from_a_size_that_is_too_large():
    """Lightning's `binsearch` answers 1 from 512 where 300 fit."""
    assert search(300, init_val=512).batch_size == 300


def test_nothing_fits():
    """Lightning answers 1, never run, or dies of a batch of 0; accelerate counts for hours, Ultralytics says 16."""
    found = search(0, init_val=64)
    assert found.batch_size is None
    assert found.ended == "nothing_fits"
    assert [size for size, _ in found.trials] == [64, 32, 16, 8, 4, 2, 1]


def test_the_first_trial_is_the_first_size():
    """Lightning's first trial runs whatever the model had."""
    assert search(300, init_val=2).trials[0] == (2, True)


def test_the_answer_is_not_held_to_powers_of_two():
    """Composer's automatic micro-batch halves only, and so leaves up to half of the memory."""
    assert search(127, init_val=64).batch_size == 127


def test_memory_that_does_not_grow_is_no_reason_for_a_huge_batch():
    """yolov5's fit answers 253731 there: a jump is limited, and what was not run is not the answer."""
    found = measured_search(lambda _: 1000.0, 2000.0, max_val=64)
    assert found.batch_size == 64
    sizes = [size for size, _ in found.trials]
    assert all(after <= 2 * before for before, after in itertools.pairwise(sizes))


def test_the_line_through_all_points_promises_too_much():
    """Ultralytics fits one line: 163 for a vision transformer whose memory ends at 128, and 266 for 256."""
    for points in (VIT, RESNET50):
        *known, (truth, budget) = points
        slope, start = np.polyfit(*zip(*known, strict=True), 1)
        found = predict_batch_size(known, budget)
        assert found == pytest.approx(truth, rel=0.01)
        assert abs(found - truth) < abs((budget - start) / slope - truth)


def test_one_slow_rung_does_not_end_the_ladder():
    """Ludwig's search stops at the first drop: here at 4, for a batch of 2 and a quarter of the best throughput."""
    measured = {1: 395, 2: 543, 4: 125, 8: 325, 16: 1250, 32: 1900, 64: 2130}
    for rungs in range(1, len(measured) + 1):
        assert not throughput_is_flat(dict(list(measured.items())[:rungs]))
    assert throughput_knee(measured) == 64


# --- bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"init_val": 0}, ValueError, "`init_val` to be an int >= 1, but got 0"),
        ({"init_val": 2.5}, TypeError, "`init_val` to be an int >= 1, but got 2.5"),
        ({"min_val": 0}, ValueError, "`min_val` to be an int >= 1, but got 0"),
        ({"min_val": 9, "max_val": 8}, ValueError, "`max_val` to be an int >= 9, but got 8"),
        ({"max_val": math.inf}, TypeError, "`max_val` to be an int >= 1, but got inf"),
        ({"max_trials": 0}, ValueError, "`max_trials` to be an int >= 1, but got 0"),
        ({"margin": 1.0}, ValueError, "`margin` to be a number >= 0 and < 1, but got 1.0"),
        ({"margin": -0.1}, ValueError, "`margin`"),
        ({"tolerance": -1}, ValueError, "`tolerance` to be a finite number >= 0, but got -1"),
        ({"tolerance": math.nan}, ValueError, "`tolerance`"),
        ({"max_jump": 1.5}, ValueError, "`max_jump` to be a number >= 2, but got 1.5"),
        ({"round_to": 0}, ValueError, "`round_to` to be an int >= 1, or 'power' or 'half_power', but got 0"),
        ({"round_to": "powers"}, ValueError, "`round_to` to be 'power', 'half_power', or an int >= 1, but got 'pow"),
        ({"round_to": None}, TypeError, "`round_to` to be an int >= 1, or 'power' or 'half_power', but got None"),
        ({"round_to": 8, "min_val": 9, "max_val": 15}, ValueError, r"include a multiple of 8 .* but got 9 to 15"),
        ({"round_to": "power", "min_val": 33, "max_val": 63}, ValueError, "include a power of two, but got 33 to 63"),
        ({"predict": 3}, TypeError, "`predict` to be a function, or None, but got 3"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(options, error, message):
    with pytest.raises(error, match=message):
        search_batch_size(lambda _: pytest.fail("ran"), **options)


# --- memory


@pytest.mark.parametrize(
    ("model", "sizes", "target", "error"),
    [
        (RESNET50, (1, 2), 256, -0.19),
        (RESNET50, (2, 4), 256, -0.033),
        (RESNET50, (16, 32), 256, -0.007),
        (RESNET50, (32, 64), 256, 0.0),
        (VIT, (1, 2), 128, -0.90),
        (VIT, (2, 4), 128, -0.39),
    ],
)
def test_prediction_errors_as_measured_and_never_too_high(model, sizes, target, error):
    peaks = dict(model)
    found = predict_peak([(size, peaks[size]) for size in sizes], target)
    assert found / peaks[target] - 1 == pytest.approx(error, abs=0.006)


@pytest.mark.parametrize("points", [RESNET50, VIT], ids=["resnet50", "vit"])
def test_a_convex_peak_is_underestimated_beyond_and_overestimated_between(points):
    for n in range(2, len(points)):
        size, peak = points[n]
        assert predict_peak(points[:n], size) <= peak * 1.002
        assert predict_batch_size(points[:n], peak * 1.002) >= size
    for n in range(1, len(points) - 1):
        (size, peak), others = points[n], points[:n] + points[n + 1 :]
        assert predict_peak(others, size) >= peak * 0.998
        assert predict_batch_size(others, peak * 0.998) <= size


def test_two_points_are_a_line():
    points = [(10, 300.0), (30, 700.0)]  # 100 + 20 a sample
    for size in (1, 5, 10, 20, 30, 31, 400):
        assert predict_peak(points, size) == pytest.approx(100 + 20 * size)
        assert predict_batch_size(points, 100 + 20 * size + 19) == size
    assert predict_batch_size(points, 50) == 0


def test_order_and_repeats():
    points = [(30, 700.0), (10, 999.0), (60, 5000.0), (10, 300.0)]
    assert predict_batch_size(points, 500) == 20
    assert predict_peak(points, 20) == pytest.approx(500)
    assert predict_peak(points, 30) == 700


def test_too_little_is_known():
    assert predict_batch_size([], 1000) is None
    assert predict_peak([], 16) is None
    assert predict_batch_size([(8, 100.0), (16, 100.0)], 1000) is None
    assert predict_batch_size([(8, 100.0), (16, 90.0)], 1000) is None
    assert predict_peak([(8, 100.0), (16, 100.0)], 1000) == 100


@pytest.mark.parametrize("points", [[(8, 120.0)], [(8, 100.0), (8, 120.0)]])
def test_one_size_is_in_proportion(points):
    assert [predict_batch_size(points, budget) for budget in (1, 14, 15, 119, 120, 1000)] == [0, 0, 1, 7, 8, 66]
    assert [predict_peak(points, size) for size in (1, 8, 16, 20)] == [120, 120, 240, 300]


def test_one_size_without_memory_says_nothing():
    assert predict_batch_size([(8, 0.0)], 1000) is None
    assert predict_peak([(8, 0.0)], 1000) == 0


@pytest.mark.parametrize("points", [RESNET50, VIT], ids=["resnet50", "vit"])
def test_from_one_size_a_larger_one_is_never_underestimated(points):
    for i, known in enumerate(points):
        for size, peak in points[i:]:
            assert predict_peak([known], size) >= peak
            assert predict_batch_size([known], peak) <= size


def test_a_prediction_has_an_upper_limit():
    assert predict_batch_size([(8, 1e-300)], 1e300) == 2**53
    assert predict_batch_size([(1, 0.0), (2, 1e-300)], 1e300) == 2**53


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: predict_batch_size([(1, 2), (2, 3)], 0), "`budget` to be a finite number > 0, but got 0"),
        (lambda: predict_batch_size([(1, 2), (2, 3)], math.inf), "`budget`"),
        (lambda: predict_batch_size([(1, 2), (2, math.nan)], 5), "finite number >= 0, but got nan"),
        (lambda: predict_batch_size([(0, 2), (2, 3)], 5), "`points\\[0\\]\\[0\\]` to be an int >= 1, but got 0"),
        (lambda: predict_batch_size([(1, 2, 3)], 5), "`points\\[0\\]` to be a batch size and its peak memory, but got"),
        (lambda: predict_peak([(1, 2), (2, 3)], 0), "`batch_size` to be an int >= 1, but got 0"),
        (lambda: predict_peak([(1, -2), (2, 3)], 1), "finite number >= 0, but got -2"),
    ],
)
def test_memory_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- throughput

MLP = dict(zip((2**i for i in range(12)), (563, 615, 1101, 1942, 3847, 5197, 6900, 7850, 8454, 9518, 9224, 9695)))  # noqa: B905
RESNET18 = {2: 64, 4: 94, 8: 156, 16: 257, 32: 379, 64: 471, 128: 476}


@pytest.mark.parametrize(("within", "mlp"), [(0.2, 128), (0.1, 512), (0.05, 512)])
def test_the_knee_of_two_measured_networks(within, mlp):
    assert throughput_knee(MLP, within) == mlp
    assert throughput_knee(RESNET18, within) == 64


def test_the_knee_of_an_affine_step_has_a_closed_form():
    """A step of a + c B seconds: B / (a + c B) is within x of its limit 1 / c from B = (1 - x) / x * a / c on."""
    a, c = 0.032, 0.0018
    ladder = {size: size / (a + c * size) for size in range(1, 200_000, 13)}
    assert throughput_knee(ladder, within=0.05) == pytest.approx(19 * a / c, rel=0.1)


def test_the_median_of_repeats_counts_and_not_their_order():
    quiet = {8: [100, 102, 101], 16: [180, 182, 181], 32: [184, 183, 185]}
    disturbed = {32: [184, 9, 185], 16: [3000, 182, 181], 8: [100, 102, 1]}
    assert throughput_knee(quiet) == throughput_knee(disturbed) == 16
    assert throughput_is_flat({**quiet, 64: [184, 1, 187]}) is throughput_is_flat({64: 184, **disturbed}) is True


def test_a_ladder_may_stop_where_two_rungs_gain_nothing():
    for rungs in range(1, len(MLP) + 1):
        ladder = dict(list(MLP.items())[:rungs])
        assert not throughput_is_flat(ladder) or throughput_knee(ladder) == throughput_knee(MLP)
    assert not throughput_is_flat({2: 100, 4: 104, 8: 108})  # each gains less than 5 %, and the two more
    assert throughput_is_flat({2: 100, 4: 102, 8: 104})
    assert throughput_is_flat({2: 100, 4: 90, 8: 80})


def test_a_ladder_that_is_too_short_is_not_flat():
    assert not throughput_is_flat({2: 100})
    assert not throughput_is_flat({2: 100, 4: 100})


@pytest.mark.parametrize(
    ("ladder", "within", "message"),
    [
        ({}, 0.05, "`samples_per_second` to be a mapping .* with at least one size, but got {}"),
        ({8: []}, 0.05, r"`samples_per_second\[8\]` to be one or more finite numbers > 0, but got \[\]"),
        ({8: [1, 0]}, 0.05, r"`samples_per_second\[8\]` to be one or more finite"),
        ({8: math.nan}, 0.05, r"`samples_per_second\[8\]` to be one or more finite"),
        ({0: 5}, 0.05, "`batch size` to be an int >= 1, but got 0"),
        ({8: 5}, 0.0, "`within` to be a number > 0 and < 1, but got 0.0"),
        ({8: 5}, 1.0, "`within` to be a number > 0 and < 1, but got 1.0"),
    ],
)
def test_throughput_refuses(ladder, within, message):
    for function in (throughput_knee, throughput_is_flat):
        with pytest.raises(ValueError, match=message):
            function(ladder, within)
