"""The gradient noise scale: the batch size at which the noise of a gradient is as large as the gradient.

The gradient of b samples is the gradient G of the whole data, plus noise of covariance C / b. From the squared norms of
gradients of b and of B > b samples follow unbiased estimates of |G|^2 and of S = tr(C), and from their averages the
noise scale (McCandlish et al., 2018, appendix A):

    gradient_t    = (B |g_B|^2 - b |g_b|^2) / (B - b)
    noise_t       = (|g_b|^2 - |g_B|^2) / (1/b - 1/B)
    noise scale   = mean(noise_t) / mean(gradient_t)

Both are averaged before the division: the mean of the quotients has no expected value, since |G|^2 of one step is often
estimated as zero or less. The interval is that of Fieller (1954): all rho for which mean(noise_t - rho gradient_t)
is not further from zero than t standard errors. It has no upper end where mean(gradient_t) is not above zero by its own
error. Along a training both numbers drift, so the errors are computed from the differences of consecutive observations
(von Neumann, 1941).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from lightning_hp.functional.checks import (
    MAX_INT,
    check_fields,
    check_int,
    check_number,
    wrong_type,
    wrong_value,
)

#: Fewer observations show no error.
MIN_OBSERVATIONS = 8

#: The steps of SGD with k times the learning rate take a training as far as k times as many, up to this share of the
#: noise scale.
LINEAR_SHARE = 0.5

_SUMS = ("weight", "gradient", "noise", "squared_weight", "difference_weight", "gg", "gn", "nn")
_LAST = ("last_gradient", "last_noise")


@dataclass(frozen=True)
class NoiseScale:
    """An estimate of the gradient noise scale, in samples.

    Attributes:
        value: The noise scale, >= 0; ``None`` if it is not known.
        low: Lower end of its interval, >= 0; 0 if nothing is known.
        high: Upper end of its interval; infinite if there is none.
        gradient: Average of the estimates of |G|^2; NaN without observations.
        noise: Average of the estimates of S = tr(C); NaN without observations.
        num_observations: Number of observations.
        reason: Why it is not known, a sentence; ``None`` if it is.

    Example:
        >>> NoiseScale(value=300.0, low=210.0, high=450.0, gradient=1.0, noise=300.0, num_observations=50).value
        300.0

    """

    value: float | None
    low: float
    high: float
    gradient: float
    noise: float
    num_observations: int
    reason: str | None = None


def gradient_and_noise(
    small_square: float, large_square: float, small_batch: float, large_batch: float
) -> tuple[float, float]:
    """Unbiased estimates of |G|^2 and of S = tr(C) from the squared norms of two gradients.

    Args:
        small_square: Squared norm of the gradient of ``small_batch`` samples, >= 0, or the mean of several such. The
            gradients are those of a mean over samples.
        large_square: Squared norm of the gradient of ``large_batch`` samples, >= 0. It may be that of the same samples.
        small_batch: Samples, > 0; of batches of different sizes that together are the large one, the harmonic mean.
        large_batch: Samples, > ``small_batch``.

    Returns:
        The estimates of |G|^2 and of S. Either may be negative.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If an argument is out of its range.

    References:
        McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018, appendix A.1.

    Example:
        >>> gradient_and_noise(small_square=9.0, large_square=3.0, small_batch=8, large_batch=32)
        (1.0, 64.0)

    """
    small_square = check_number("small_square", small_square, minimum=0)
    large_square = check_number("large_square", large_square, minimum=0)
    small_batch = check_number("small_batch", small_batch, above=0)
    large_batch = check_number("large_batch", large_batch, above=0)
    if not small_batch * (1 + 1e-9) < large_batch:
        wrong_value("large_batch", f"a number of samples > `small_batch`, which is {small_batch:g}", large_batch)
    ratio = small_batch / large_batch
    gradient = (large_square - ratio * small_square) / (1 - ratio)
    noise = small_batch * ((small_square - large_square) / (1 - ratio))
    if not (math.isfinite(gradient) and math.isfinite(noise)):
        wrong_value("small_square", "numbers whose estimates are finite", small_square)
    return gradient, noise


class NoiseScaleEstimator:
    """Averages |G|^2 and S over the steps of a training, apart, and divides.

    Args:
        decay: Weight of each observation relative to the next one, > 0 and <= 1; 1: all have the same weight. With 0.99
            about the last 100 count.
        confidence: Probability with which the interval contains the ratio of the averages of the exact values, > 0 and
            < 1.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If an argument is out of its range.

    Note:
        The interval is that of the noise of sampling. It does not contain the error of the model behind the noise
        scale, which is large: as a critical batch size it was up to nine times too high in measured trainings. Where
        few of many repetitions give an estimate at all, those that do are too low.

    References:
        McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018. Fieller, *Some Problems in Interval
        Estimation*, 1954. von Neumann et al., *The Mean Square Successive Difference*, 1941.

    Example:
        >>> estimator = NoiseScaleEstimator()
        >>> for step in range(50):
        ...     estimator.update(gradient=1.0 + 0.1 * (-1) ** step, noise=64.0)
        >>> estimate = estimator.noise_scale()
        >>> round(estimate.value), estimate.low < 64 < estimate.high
        (64, True)

    """

    def __init__(self, decay: float = 1.0, confidence: float = 0.95) -> None:
        self._decay = check_number("decay", decay, above=0, maximum=1)
        self._confidence = check_number("confidence", confidence, above=0, below=1)
        self._count = 0
        self._sums = dict.fromkeys(_SUMS, 0.0)
        self._last = dict.fromkeys(_LAST, 0.0)

    def update(self, gradient: float, noise: float) -> None:
        """Adds one observation, as :func:`gradient_and_noise` returns it.

        Args:
            gradient: An estimate of |G|^2.
            noise: An estimate of S.

        Raises:
            TypeError: If an argument is no number.
            ValueError: If an argument is not finite.

        """
        g, n = check_number("gradient", gradient), check_number("noise", noise)
        sums, last = self._sums, self._last
        decay = self._decay
        for name in ("weight", "gradient", "noise"):
            sums[name] *= decay
        for name in ("squared_weight", "difference_weight", "gg", "gn", "nn"):
            sums[name] *= decay**2
        sums["weight"] += 1.0
        sums["gradient"] += g
        sums["noise"] += n
        sums["squared_weight"] += 1.0
        if self._count:
            change_g, change_n = g - last["last_gradient"], n - last["last_noise"]
            sums["difference_weight"] += 1.0
            sums["gg"] += 0.5 * change_g * change_g
            sums["gn"] += 0.5 * change_g * change_n
            sums["nn"] += 0.5 * change_n * change_n
        last["last_gradient"], last["last_noise"] = g, n
        self._count += 1

    def noise_scale(self) -> NoiseScale:
        """The present estimate, with its interval or the reason why it is not known."""
        if not self._count:
            return NoiseScale(None, 0.0, math.inf, math.nan, math.nan, 0, "No step was measured.")
        sums = self._sums
        gradient, noise = sums["gradient"] / sums["weight"], sums["noise"] / sums["weight"]
        if self._count < MIN_OBSERVATIONS:
            what = "1 observation shows" if self._count == 1 else f"{self._count} observations show"
            reason = f"{what} no error; at least {MIN_OBSERVATIONS} are needed."
            return NoiseScale(None, 0.0, math.inf, gradient, noise, self._count, reason)
        effective = sums["weight"] ** 2 / sums["squared_weight"]
        # The degrees of freedom of a mean square successive difference.
        degrees = 2 * (effective - 1) ** 2 / (3 * effective - 4) if effective > 2 else 0.0
        if degrees < _MIN_DEGREES:
            reason = f"The last {effective:.1f} observations decide, which show no error; increase `decay`."
            return NoiseScale(None, 0.0, math.inf, gradient, noise, self._count, reason)
        if sums["gg"] == sums["nn"] == 0:
            reason = f"{self._count} equal observations show no error."
            return NoiseScale(None, 0.0, math.inf, gradient, noise, self._count, reason)
        scale = sums["squared_weight"] / sums["difference_weight"] / sums["weight"] ** 2
        quantile = _student_quantile(0.5 + self._confidence / 2, degrees)
        low, high = _fieller(gradient, noise, *(quantile**2 * scale * sums[name] for name in ("gg", "gn", "nn")))
        if math.isinf(high):
            margin = quantile * math.sqrt(scale * sums["gg"])
            reason = (
                f"The squared norm of the gradient, {gradient:.3g}, is not above zero by its error, {margin:.3g}, after"
                f" {self._count} observations. Average over more of them, or over larger batches."
            )
            return NoiseScale(None, low, high, gradient, noise, self._count, reason)
        return NoiseScale(max(0.0, noise / gradient), low, high, gradient, noise, self._count)

    def state_dict(self) -> dict[str, Any]:
        """The sums, in plain types."""
        return {"count": self._count, **self._sums, **self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned.

        Args:
            state: The sums.

        Raises:
            TypeError: If an entry is of the wrong type.
            ValueError: If an entry is missing, or no sum of observations.

        """
        if not isinstance(state, Mapping):
            wrong_type("state", "a dict of sums", state)
        entries = check_fields("state", state, ("count", *_SUMS, *_LAST))
        count = check_int("state['count']", entries["count"], 0, MAX_INT)
        signed = ("gradient", "noise", "gn", *_LAST)
        numbers = {
            name: check_number(f"state[{name!r}]", entries[name], minimum=None if name in signed else 0)
            for name in (*_SUMS, *_LAST)
        }
        if bool(count) != bool(numbers["weight"]) or (count > 1) != bool(numbers["difference_weight"]):
            wrong_value("state", "sums of `count` observations", dict(entries))
        self._count = count
        self._sums = {name: numbers[name] for name in _SUMS}
        self._last = {name: numbers[name] for name in _LAST}


_MIN_DEGREES = 3.0


def _fieller(gradient: float, noise: float, gg: float, gn: float, nn: float) -> tuple[float, float]:
    """The ends of all rho >= 0 with (noise - rho gradient)^2 <= nn - 2 rho gn + rho^2 gg."""
    a, b, c = gradient**2 - gg, gradient * noise - gn, noise**2 - nn
    root = math.sqrt(max(0.0, b * b - a * c))
    if gradient > 0 and a > 0:
        high = (b + root) / a
        low = c / (b + root) if b + root > 0 else 0.0
        return max(0.0, low), max(0.0, high)
    # Of the two rays that are left, the one of positive rho; none without a noise above its error.
    if c <= 0 or noise <= 0:
        return 0.0, math.inf
    if a >= 0:  # a gradient that is negative by its error: no rho >= 0 agrees with it
        return 0.0, math.inf
    return max(0.0, c / (b + root)) if b + root > 0 else 0.0, math.inf


def _student_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's distribution, by its expansion in 1 / degrees; off by < 1 % from 3 degrees on."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))
