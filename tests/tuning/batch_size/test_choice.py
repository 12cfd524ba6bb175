"""The search for a batch size on a simulated device, against a scan over all sizes and over the faults of others."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict

import pytest

from lightning_hp.functional import predict_batch_size
from lightning_hp.functional.batch_size.steady import MAX_REPEATS
from lightning_hp.tuning.batch_size.choice import TOLERANCE, SearchGoal, choose_batch_size

LIMITS = range(1, 3001)
HIGHEST = 2048
#: Of the limits that a test goes through every third; all of them with -m exhaustive.
sampled = pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.exhaustive)])


class Device:
    """Fits up to a limit, and the validation up to another; as fast as ``size / (bend + size)``."""

    def __init__(self, limit, bend=100.0, validation=math.inf, guided=False):
        self.limit, self.bend, self.validation, self.guided = limit, bend, validation, guided
        self.asked = []
        self.peaks = []

    def speed(self, size):
        return size / (self.bend + size)

    def memory(self, size):
        """Optimizer, then activations, then activations and a workspace."""
        return max(50 + 0.1 * size, 10 + size, -5 + 1.2 * size)

    def holds(self, size, validate):
        return size <= self.limit and (not validate or size <= self.validation)

    def fits(self, size, validate=False):
        assert type(size) is int
        assert size >= 1
        fitted = self.holds(size, validate)
        self.asked.append((size, validate, fitted))
        if self.guided and fitted:
            self.peaks.append((size, self.memory(size)))
        return fitted

    @property
    def fitted(self):
        last = {size: fitted for size, _, fitted in self.asked}
        return sorted(size for size in last if last[size])

    @property
    def speeds(self):
        speeds, fitted = defaultdict(list), self.fitted
        for size, _, ran in self.asked:
            if ran and size in fitted:
                speeds[size].append(self.speed(size))
        return dict(speeds)

    def predict(self):
        return predict_batch_size(self.peaks, self.memory(self.limit)) if self.guided else None

    def affordable(self, wanted, last):
        expected = self.predict()
        if self.guided and wanted / last * self.memory(last) <= self.memory(self.limit):
            return wanted
        return min(wanted, 2 * last if expected is None else max(last + 1, min(2 * last, expected)))


def different(device):
    """The number of different trials; sizes at the knee are repeated, which ``test_steady.py`` bounds."""
    return len({(size, validate) for size, validate, _ in device.asked})


def wanted(**options):
    return SearchGoal(**{"init_val": 8, "lowest": 1, "highest": HIGHEST, **options})


def choose(device, **options):
    """A choice that keeps what holds whatever is asked: the answer is within the bounds and was run last, validated."""
    asked = wanted(**options)
    choice = choose_batch_size(device, asked)
    assert all(size <= asked.highest for size, _, _ in device.asked)
    if choice.batch_size is None:
        assert not any(map(asked.is_allowed, device.fitted))
    else:
        assert device.asked[-1] == (choice.batch_size, True, True)
        assert choice.batch_size <= min(asked.highest, device.limit, device.validation)
    return choice


def scanned_knee(device, lowest, highest, within=0.05):
    """The smallest size that is as fast as any of all that fit."""
    best = max(map(device.speed, range(lowest, highest + 1)))
    return next(size for size in range(lowest, highest + 1) if device.speed(size) >= (1 - within) * best)


def on_grid(size, round_to):
    if round_to == "power" or size < round_to:
        return size & (size - 1) == 0
    return size % round_to == 0


# --- over all limits


@sampled
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("margin", [0.0, 0.03, 0.2])
def test_the_largest_that_fits_for_every_limit(margin, guided, every):
    for limit in LIMITS[:: every * (7 if margin == 0.03 else 19)]:
        device = Device(limit, guided=guided)
        choice = choose(device, objective="memory", margin=margin)
        if limit >= HIGHEST:
            assert (choice.batch_size, choice.decided_by) == (HIGHEST, "highest")
        else:
            assert (1 - TOLERANCE) * (1 - margin) * limit - 1 <= choice.batch_size <= limit - int(margin * limit)
            assert (choice.decided_by, choice.limit) == ("memory", choice.batch_size)
        assert different(device) <= math.log2(HIGHEST) + 8


@sampled
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("at_least", [0, 100])
@pytest.mark.parametrize("bend", [1, 30, 1000])
def test_the_smallest_that_is_as_fast_as_any_for_every_limit(bend, at_least, guided, every):
    """Raised to what is needed, lowered to what fits; the knee to a factor of two, by some thirteen trials at most."""
    for limit in LIMITS[:: every * (7 if (bend, at_least, guided) == (30, 0, True) else 29)]:
        device = Device(limit, bend, guided=guided)
        choice = choose(device, at_least=at_least, margin=0.03)
        top = min(limit, HIGHEST)
        sure = top if limit >= HIGHEST else (1 - TOLERANCE) * (1 - 0.03) * top - 1
        knee = scanned_knee(device, 1, top)
        assert choice.batch_size >= min(at_least, sure)
        if choice.batch_size != at_least:
            assert min(knee / 2, sure) <= choice.batch_size <= max(2 * knee, at_least)
            assert device.speed(choice.batch_size) >= min(0.9 * device.speed(top), device.speed(max(1, sure)))
        assert different(device) <= math.log2(HIGHEST) + 8


def test_trials_are_few():
    """Where memory does not set the limit a handful, and never more than twice the halvings of a doubling search."""
    free = [Device(10**9, bend, guided=True) for bend in (0.5, 3, 10, 30, 100)]
    for device in free:
        choose(device)
    assert sum(different(device) for device in free) <= 8 * len(free)
    bound = [Device(limit, 400, guided=guided) for limit in range(8, 2000, 40) for guided in (False, True)]
    for device in bound:
        choose(device, margin=0.03)
    assert sum(different(device) for device in bound) <= 12.5 * len(bound)


@sampled
def test_no_size_is_run_often_but_those_at_the_knee(every):
    for limit, bend, at_least in itertools.product(range(1, 3001, 61 * every), (1, 30, 400), (0, 100, 700)):
        device = Device(limit, bend)
        choose(device, at_least=at_least, margin=0.03)
        plain = [size for size, validate, _ in device.asked if not validate]
        assert sum(plain.count(size) > 1 for size in set(plain)) <= 4
        assert max(map(plain.count, plain)) <= MAX_REPEATS
        assert sum(validate for _, validate, _ in device.asked) <= 1


@sampled
@pytest.mark.parametrize("init_val", [1, 2, 100, 512, 5000])
def test_where_it_begins_does_not_matter(init_val, every):
    for limit, bend in itertools.product(range(2, 3001, 53 * every), (1, 30, 400)):
        device = Device(limit, bend)
        choice = choose(device, init_val=init_val, lowest=2)
        top = min(limit, HIGHEST)
        knee = scanned_knee(device, 2, top)
        assert min(knee / 2, 0.98 * top - 1) <= choice.batch_size <= 2 * knee
        assert device.asked[0][0] == max(2, min(init_val, HIGHEST))
        assert different(device) <= 2 * math.log2(HIGHEST)


@sampled
@pytest.mark.parametrize("round_to", [8, 12, "power"])
@pytest.mark.parametrize("objective", ["throughput", "memory"])
def test_the_grid_is_kept(objective, round_to, every):
    allowed = [size for size in range(1, HIGHEST + 1) if on_grid(size, round_to)]
    for limit, at_least, margin in itertools.product(range(1, 3001, 47 * every), (0, 100), (0.0, 0.1)):
        device = Device(limit, 30)
        choice = choose(device, objective=objective, round_to=round_to, at_least=at_least, margin=margin)
        assert all(on_grid(size, round_to) for size, _, _ in device.asked)
        largest = max(size for size in allowed if size <= min(limit, HIGHEST))
        needed = next(size for size in allowed if size >= at_least)
        if objective == "memory" and not margin:
            assert choice.batch_size >= 0.98 * largest
        if objective == "throughput" and not margin:
            assert choice.batch_size >= min(needed, 0.98 * largest)


@sampled
@pytest.mark.parametrize("divisor_of", [60, 97, 256, 1000])
def test_accumulated_batches_come_to_the_effective_batch_exactly(divisor_of, every):
    divisors = [size for size in range(1, divisor_of + 1) if divisor_of % size == 0]
    for limit, bend in itertools.product(range(1, 1101, 9 * every), (1, 30, 1000)):
        device = Device(limit, bend)
        choice = choose(device, highest=divisor_of, divisor_of=divisor_of)
        assert choice.batch_size in divisors
        assert choice.decided_by == "effective_batch_size"
        sure = max(size for size in divisors if size <= max(1, 0.98 * min(limit, divisor_of)))
        knee = scanned_knee(device, 1, min(limit, divisor_of))
        assert choice.batch_size >= min(sure, knee / 2)
        assert choice.batch_size <= max(min(size for size in divisors if size >= min(2 * knee, divisor_of)), sure)


# --- the validation


@sampled
@pytest.mark.parametrize("objective", ["throughput", "memory"])
def test_the_validation_fits_too(objective, every):
    for validation in LIMITS[:: 29 * every]:
        device = Device(2000, 1000, validation)
        choice = choose(device, objective=objective, margin=0.03)
        unbound = choose(Device(2000, 1000), objective=objective, margin=0.03).batch_size
        sure = (1 - TOLERANCE) * (1 - 0.03) * validation - 1
        assert min(sure, unbound) <= choice.batch_size
        if validation < unbound:
            assert choice.batch_size <= validation - int(0.03 * validation)
            assert (choice.decided_by, choice.limit) == ("memory", choice.batch_size)


def test_a_validation_that_is_too_large_keeps_grid_and_share():
    for validation in range(1, 1001, 7):
        assert choose(Device(2000, 1000, validation), round_to="power").batch_size.bit_count() == 1
        assert 1000 % choose(Device(2000, 1000, validation), highest=1000, divisor_of=1000).batch_size == 0


def test_a_validation_that_never_fits():
    device = Device(2000, 30, validation=0)
    assert choose_batch_size(device, wanted()).batch_size is None
    assert different(device) <= 2 * math.log2(HIGHEST) + 4


# --- who decided


@pytest.mark.parametrize(
    ("device", "options", "decided_by"),
    [
        (Device(10**9, 10), {}, "throughput"),
        (Device(3000, 10), {"at_least": 100}, "throughput"),
        (Device(10**9, 10), {"at_least": 1000}, "classes"),
        (Device(1500, 10), {"at_least": 1000}, "classes"),
        (Device(900, 10), {"at_least": 1000}, "memory"),
        (Device(900, 10**6), {}, "memory"),
        (Device(900, 10**6), {"at_least": 30}, "memory"),
        (Device(10**9, 10**6), {}, "highest"),
        (Device(10**9, 10), {"at_least": 5000}, "highest"),
        (Device(10**9, 10**6), {"objective": "memory"}, "highest"),
        (Device(900, 10), {"objective": "memory"}, "memory"),
        (Device(10**9, 10**6), {"highest": 7}, "highest"),
        (Device(10**9, 10**6, validation=900), {}, "memory"),
        (Device(10**9, 10), {"divisor_of": 96, "highest": 96}, "effective_batch_size"),
    ],
)
def test_what_decided(device, options, decided_by):
    assert choose(device, **options).decided_by == decided_by


def test_more_of_what_decided_changes_the_answer():
    seen = set()
    for limit, bend, at_least, highest in itertools.product((20, 150, 4000), (1, 40, 5000), (0, 60, 700), (128, 2048)):
        device, options = Device(limit, bend), {"at_least": at_least, "highest": highest}
        choice = choose(device, **options)
        size, rises = choice.batch_size, device.speed(2 * choice.batch_size) > 1.1 * device.speed(choice.batch_size)
        seen.add(choice.decided_by)
        if choice.decided_by == "memory" and highest >= 4 * limit and rises:
            assert choose(Device(4 * limit, bend), **options).batch_size > size
        if choice.decided_by == "highest" and limit >= 4 * highest and rises:
            assert choose(device, **{**options, "highest": 4 * highest}).batch_size > size
        if choice.decided_by == "classes":
            assert choose(device, **{**options, "at_least": 0}).batch_size < size
        if choice.decided_by == "throughput":
            assert choose(Device(4 * limit, bend), **{**options, "highest": 4 * highest}).batch_size <= 2 * size
    assert seen == {"memory", "highest", "classes", "throughput"}


def test_a_limit_is_told_only_where_it_was_found():
    assert choose(Device(10**9, 10)).limit is None
    assert choose(Device(10**9, 10), objective="memory").limit is None
    choice = choose(Device(900, 10**6), margin=0.03)
    assert 0.95 * 900 <= choice.limit <= 0.97 * 900
    assert not choice.is_flat
    assert choose(Device(10**9, 10)).is_flat


# --- devices that change


class Fragmented(Device):
    """Once memory ran out, less of it can be used."""

    def holds(self, size, validate):
        fitted = super().holds(size, validate)
        if not fitted:
            self.limit = min(self.limit, self.left)
        return fitted


@sampled
@pytest.mark.parametrize("objective", ["throughput", "memory"])
@pytest.mark.parametrize("left", [0.5, 0.9])
def test_memory_that_is_less_after_it_ran_out(left, objective, every):
    for limit in range(4, 2000, 13 * every):
        device = Fragmented(limit, 1000)
        device.left = int(left * limit)
        choice = choose(device, objective=objective)
        assert choice.batch_size >= 0.9 * (0.95 * device.left - 1)  # of what is left, within 5 % of its speed
        assert len(device.asked) <= 40


class Fickle(Device):
    """Fits or not as it likes."""

    def __init__(self, seed):
        super().__init__(math.inf)
        self.rng = random.Random(seed)
        self.chance = self.rng.choice([0.1, 0.5, 0.8, 0.95])

    def holds(self, size, validate):
        return self.rng.random() < self.chance

    def speed(self, size):
        return math.exp(self.rng.gauss(0, 1))


@pytest.mark.parametrize("seed", range(200))
def test_a_device_that_answers_at_random(seed):
    device, rng = Fickle(seed), random.Random(seed)
    choice = choose_batch_size(
        device,
        wanted(
            lowest=2,
            init_val=rng.choice([1, 8, 300]),
            at_least=rng.choice([0, 50, 5000]),
            objective=rng.choice(["throughput", "memory"]),
            round_to=rng.choice([1, 8, "power"]),
            margin=rng.choice([0.0, 0.1]),
        ),
    )
    assert len(device.asked) < 150
    if choice.batch_size is not None:
        assert device.asked[-1] == (choice.batch_size, True, True)


class Hole(Device):
    """One size picks a hungry kernel."""

    def holds(self, size, validate):
        return super().holds(size, validate) and size != self.hole


@pytest.mark.parametrize("hole", [8, 16, 32, 64, 128, 512])
def test_a_hole_is_never_the_answer(hole):
    for bend, objective in itertools.product((1, 30, 1000), ("throughput", "memory")):
        device = Hole(1000, bend)
        device.hole = hole
        assert choose(device, objective=objective).batch_size not in (hole, None)


class Busy(Device):
    """A trial out of six is at a quarter of its speed, since something else runs."""

    def __init__(self, limit, bend, seed):
        super().__init__(limit, bend)
        self.rng = random.Random(seed)
        self.timed = {}

    def speed(self, size):
        slow = self.timed.setdefault((size, len(self.asked)), self.rng.random() < 1 / 6)
        return super().speed(size) / (4 if slow else 1)


def test_a_busy_machine_is_seldom_taken_for_a_knee():
    shares = []
    for seed, bend in itertools.product(range(60), (3, 30, 300)):
        choice = choose(Busy(10**9, bend, seed))
        quiet = Device(10**9, bend)
        shares.append(quiet.speed(choice.batch_size) / quiet.speed(HIGHEST))
    assert sum(share < 0.75 for share in shares) <= 0.1 * len(shares)


def test_what_a_trial_raises_is_raised():
    class Broken(Device):
        def holds(self, size, validate):
            raise KeyError("a bug of the user")

    with pytest.raises(KeyError, match="a bug of the user"):
        choose_batch_size(Broken(100), wanted())


# --- the faults of others, which are not ours


@pytest.mark.parametrize(("samples", "limit"), [(100, 64), (150, 139)])
@pytest.mark.parametrize("objective", ["throughput", "memory"])
def test_the_size_that_just_failed_is_not_the_answer(objective, samples, limit):
    """Lightning's `power` returns 128 of 100 samples where 64 fit, and 256 of 150; its `binsearch` never ends there."""
    device = Device(limit, 1000)
    choice = choose(device, objective=objective, highest=samples)
    assert 0.95 * limit <= choice.batch_size <= limit
    assert len(device.asked) < 16


def test_max_val_is_run_before_it_is_the_answer():
    """Lightning's `power` returns 128 for max_val=100, having run 64, and its `binsearch` 95."""
    for objective in ("throughput", "memory"):
        assert choose(Device(10**9, 10**6), objective=objective, highest=100).batch_size == 100


def test_no_size_is_larger_than_the_data():
    """Lightning returns 2048 of 1280 samples, and 1024 of 1000, which with drop_last trains nothing."""
    for samples in (1000, 1280):
        assert choose(Device(10**9), objective="memory", highest=samples).batch_size == samples


def test_from_a_size_that_is_too_large():
    """Lightning's `binsearch` answers 1 from the user's own 512 where 300 fit."""
    assert choose(Device(300, 10**6), init_val=512).batch_size >= 285
    assert choose(Device(300, 10**6), init_val=512, objective="memory").batch_size >= 294


@pytest.mark.parametrize("objective", ["throughput", "memory"])
def test_nothing_fits(objective):
    """Lightning answers 1, never run, or dies of a batch of 0; Ultralytics answers 16."""
    device = Device(0)
    choice = choose(device, objective=objective, init_val=64, lowest=2)
    assert (choice.batch_size, choice.decided_by) == (None, "memory")
    assert [size for size, _, _ in device.asked] == [64, 32, 16, 8, 4, 2]


def test_nothing_is_taken_off_where_nothing_ran_out():
    """Lightning's `binsearch` returns 1945 of 2048."""
    assert choose(Device(10**9), objective="memory", margin=0.05).batch_size == 2048


def test_the_margin_is_taken_off_a_limit_just_below_a_size_that_failed():
    """Where all up to the last failure fit, the limit was memory's all the same."""
    for limit in (63, 127, 511, 1023):
        assert choose(Device(limit), objective="memory", margin=0.1).batch_size <= limit - int(0.1 * limit)
        assert choose(Device(limit, 10**6), margin=0.1).batch_size <= limit - int(0.1 * limit)


def test_a_margin_does_not_halve_a_batch_that_has_room():
    """Of powers of two the largest that fits has room to the limit, unless it is the limit."""
    for limit, size in ((100, 64), (130, 128), (64, 32)):
        device = Device(limit, guided=True)
        assert (
            choose(device, objective="memory", margin=0.01 if limit == 130 else 0.1, round_to="power").batch_size
            == size
        )
    assert choose(Device(8), objective="memory", margin=0.03).batch_size == 8


def test_the_validation_is_tried():
    """Lightning returns 128 where validation fits up to 40 only, and the training dies in it."""
    assert 37 <= choose(Device(10**9, 1000, validation=40), highest=1280).batch_size <= 40


def test_the_first_trial_is_the_first_size():
    """Lightning's first trial runs whatever the model had."""
    for init_val in (2, 8, 100):
        device = Device(10**9)
        choose(device, init_val=init_val)
        assert device.asked[0][0] == init_val


def test_a_device_without_a_limit_is_no_reason_for_a_huge_batch():
    """Ludwig's and yolov5's searches end at absurd sizes where memory never runs out: 253731 in one report."""
    assert choose(Device(10**9, 2), highest=10**6).batch_size <= 64


def test_memory_is_not_left_to_powers_of_two():
    """Composer halves only, and so leaves up to half of it."""
    assert choose(Device(127), objective="memory").batch_size >= 0.98 * 127


@pytest.mark.parametrize("options", [{}, {"round_to": 8}, {"divisor_of": 960, "highest": 960}])
@pytest.mark.parametrize("objective", ["throughput", "memory"])
def test_a_size_that_is_not_allowed_is_never_the_answer(objective, options):
    """It steps down until one is allowed, and up only where there is none below."""
    for limit, bend, lowest in itertools.product(range(16, 3001, 250), (1, 30, 400), (1, 100)):
        plain = choose(Device(limit, bend), objective=objective, **options)
        choice = choose(
            Device(limit, bend), objective=objective, is_allowed=lambda n, low=lowest: n % 3 > 0 and n >= low, **options
        )
        if choice.batch_size is None:
            assert limit < 2 * lowest
            continue
        assert choice.batch_size % 3 > 0
        assert choice.batch_size >= lowest
        if plain.batch_size % 3 > 0 and plain.batch_size >= lowest:
            assert (choice.batch_size, choice.avoided) == (plain.batch_size, None)
        else:
            assert choice.avoided == plain.batch_size
