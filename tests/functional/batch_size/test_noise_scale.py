"""The gradient noise scale against exact values, enumerated samples, other formulas and simulations."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from lightning_hp.functional import NoiseScaleEstimator, gradient_and_noise
from lightning_hp.functional.batch_size.noise_scale import MIN_OBSERVATIONS, _fieller, _student_quantile

RNG = np.random.default_rng(3)
#: Per-sample gradients of a linear regression, (x w - y) x for five samples.
X, W = RNG.normal(size=(5, 3)), RNG.normal(size=3)
GRADIENTS = ((X @ W - RNG.normal(size=5))[:, None]) * X
SQUARE = float((GRADIENTS.mean(0) ** 2).sum())
TRACE = float(((GRADIENTS - GRADIENTS.mean(0)) ** 2).sum(1).mean())


def square(rows: Any) -> float:
    return float((GRADIENTS[list(rows)].mean(0) ** 2).sum())


def test_over_all_samples_the_estimates_are_the_exact_values_of_a_linear_regression() -> None:
    pairs = [
        gradient_and_noise((square(draw[:1]) + square(draw[1:])) / 2, square(draw), 1, 2)
        for draw in itertools.product(range(5), repeat=2)
    ]
    assert np.mean(pairs, axis=0) == pytest.approx((SQUARE, TRACE))


def test_of_batches_of_different_sizes_the_harmonic_mean_counts() -> None:
    pairs = []
    for draw in itertools.product(range(5), repeat=3):
        first, second = draw[:1], draw[1:]  # one sample and two
        mean = (GRADIENTS[list(first)].mean(0) + GRADIENTS[list(second)].mean(0)) / 2
        harmonic = 2 / (1 / 1 + 1 / 2)
        small = (square(first) + square(second)) / 2
        pairs.append(gradient_and_noise(small, float((mean**2).sum()), harmonic, 2 * harmonic))
    assert np.mean(pairs, axis=0) == pytest.approx((SQUARE, TRACE))


def observe(seed: int, num: int, parts: int = 4, batch: int = 2) -> list[tuple[float, float]]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num):
        rows = rng.integers(5, size=(parts, batch))
        gradients = GRADIENTS[rows].mean(1)
        small, large = (gradients**2).sum(1).mean(), (gradients.mean(0) ** 2).sum()
        found.append(gradient_and_noise(float(small), float(large), batch, batch * parts))
    return found


def estimate(observations: list[tuple[float, float]], decay: float = 1.0) -> NoiseScaleEstimator:
    estimator = NoiseScaleEstimator(decay)
    for gradient, noise in observations:
        estimator.update(gradient, noise)
    return estimator


def test_the_interval_contains_the_exact_value_in_95_percent_of_the_runs() -> None:
    found = [estimate(observe(seed, 40)).noise_scale() for seed in range(300)]
    covered = sum(one.low <= TRACE / SQUARE <= one.high for one in found)
    assert 0.90 <= covered / 300 <= 0.985
    assert np.median([one.value or math.inf for one in found]) == pytest.approx(TRACE / SQUARE, rel=0.2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dimensions", [2, 30, 1000])
@pytest.mark.parametrize("scale", [10.0, 300.0])
@pytest.mark.parametrize("decay", [1.0, 0.95])
def test_coverage_along_a_falling_gradient(dimensions: int, scale: float, decay: float) -> None:
    """|G|^2 falls tenfold; the target is the ratio of the averages of the exact values, with the same weights."""
    rng = np.random.default_rng(0)
    covered, runs, steps, parts, batch = 0, 400, 60, 4, 8
    for _ in range(runs):
        estimator, exact, weight = NoiseScaleEstimator(decay), 0.0, 0.0
        for step in range(steps):
            fall = 10 ** (-step / steps)
            noise = rng.standard_normal((parts, dimensions)) * math.sqrt(scale / dimensions / batch)
            noise[:, 0] += math.sqrt(fall)
            small, large = (noise**2).sum(1).mean(), (noise.mean(0) ** 2).sum()
            estimator.update(*gradient_and_noise(float(small), float(large), batch, batch * parts))
            exact, weight = exact * decay + fall, weight * decay + 1
        found = estimator.noise_scale()
        covered += found.low <= scale * weight / exact <= found.high
    assert 0.91 <= covered / runs <= 0.985


def test_the_average_forgets_as_a_weighted_mean_does() -> None:
    observations = observe(1, 60)
    weights = 0.9 ** np.arange(59, -1, -1)
    means = (weights[:, None] * np.array(observations)).sum(0) / weights.sum()
    found = estimate(observations, 0.9).noise_scale()
    assert (found.gradient, found.noise) == pytest.approx(tuple(means))
    # The variance of a weighted mean of independent observations, from half the squared differences.
    halves = np.diff(np.array(observations), axis=0)
    moments = [
        float((weights[1:] ** 2 * 0.5 * halves[:, i] * halves[:, j]).sum() / (weights[1:] ** 2).sum())
        * float((weights**2).sum() / weights.sum() ** 2)
        for i, j in ((0, 0), (0, 1), (1, 1))
    ]
    effective = weights.sum() ** 2 / (weights**2).sum()
    quantile = student.ppf(0.975, 2 * (effective - 1) ** 2 / (3 * effective - 4))
    ratios = np.linspace(0, 200, 400_001)
    distances = (means[1] - ratios * means[0]) ** 2
    errors = quantile**2 * (moments[2] - 2 * ratios * moments[1] + ratios**2 * moments[0])
    inside = ratios[distances <= errors]
    assert found.low == pytest.approx(inside[0], rel=2e-3, abs=1e-3)
    assert found.high == pytest.approx(inside[-1], rel=2e-3)


@pytest.mark.parametrize(
    ("gradient", "noise"), [(1.0, 50.0), (0.1, 50.0), (-0.1, 50.0), (1.0, 0.5), (1.0, -3.0), (0.1, 0.5), (-3.0, 50.0)]
)
def test_the_ends_are_those_of_all_ratios_that_agree(gradient: float, noise: float) -> None:
    gg, gn, nn = 0.09, -0.3, 4.0
    ratios = np.geomspace(1e-6, 1e6, 1_000_001)
    agrees = (noise - ratios * gradient) ** 2 <= nn - 2 * ratios * gn + ratios**2 * gg
    low, high = _fieller(gradient, noise, gg, gn, nn)
    if gradient > 0 and gradient**2 > gg:
        assert low == pytest.approx(ratios[agrees][0] if agrees.any() else 0, rel=1e-3, abs=1e-5)
        assert high == pytest.approx(ratios[agrees][-1] if agrees.any() else 0, rel=1e-3, abs=1e-5)
    else:
        assert math.isinf(high)
        assert low == pytest.approx(ratios[agrees][0] if agrees.any() else 0, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("degrees", [3.0, 4.5, 10.0, 66.0])
def test_the_quantile_is_students(degrees: float) -> None:
    for probability in (0.75, 0.95, 0.975, 0.995):
        tolerance = 0.03 if degrees < 4 else 0.01
        assert _student_quantile(probability, degrees) == pytest.approx(
            student.ppf(probability, degrees), rel=tolerance
        )


def test_a_gradient_below_its_error_gives_a_reason_and_a_lower_end() -> None:
    rng = np.random.default_rng(0)
    pure_noise = [(float(g), 100 + float(n)) for g, n in rng.normal(size=(50, 2))]
    found = estimate(pure_noise).noise_scale()
    assert found.value is None
    assert found.high == math.inf
    assert found.low > 30
    assert found.reason is not None
    assert "not above zero by its error" in found.reason


def test_few_observations_give_a_reason() -> None:
    assert NoiseScaleEstimator().noise_scale().reason == "No step was measured."
    few = estimate(observe(0, MIN_OBSERVATIONS - 1)).noise_scale()
    assert few.value is None
    assert f"{MIN_OBSERVATIONS - 1} observations show no error" in str(few.reason)
    assert estimate(observe(0, MIN_OBSERVATIONS)).noise_scale().num_observations == MIN_OBSERVATIONS
    equal = estimate([(1.0, 64.0)] * 20).noise_scale()
    assert (equal.value, equal.low, equal.high) == (None, 0.0, math.inf)
    assert equal.reason == "20 equal observations show no error."
    forgetful = estimate(observe(0, 50), decay=0.2).noise_scale()
    assert forgetful.value is None
    assert "increase `decay`" in str(forgetful.reason)


def test_a_state_continues_and_a_wrong_one_is_refused() -> None:
    observations = observe(2, 30)
    first = estimate(observations[:13], 0.9)
    second = NoiseScaleEstimator(0.9)
    second.load_state_dict(first.state_dict())
    for gradient, noise in observations[13:]:
        second.update(gradient, noise)
    assert second.noise_scale() == estimate(observations, 0.9).noise_scale()
    good = first.state_dict()
    wrong: list[Any] = [
        [],
        {},
        {**good, "count": 0},
        {**good, "count": -1},
        {**good, "gg": -1.0},
        {**good, "gg": math.nan},
        {**good, "weight": 0.0},
        {**good, "other": 1},
        {**good, "noise": "3"},
    ]
    for state in wrong:
        with pytest.raises((TypeError, ValueError), match=r"[Ee]xpected"):
            second.load_state_dict(state)
    assert second.noise_scale() == estimate(observations, 0.9).noise_scale()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((1.0, 1.0, 8, 8), ValueError),
        ((1.0, 1.0, 8, 4), ValueError),
        ((-1.0, 1.0, 8, 16), ValueError),
        ((math.inf, 1.0, 8, 16), ValueError),
        (("1", 1.0, 8, 16), TypeError),
        ((1.0, 1.0, 0, 16), ValueError),
    ],
)
def test_wrong_norms_are_refused(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"[Ee]xpected"):
        gradient_and_noise(*arguments)
