"""The exact probability that every class comes often enough in a batch: Levin's representation, tilted.

Counts of classes in a batch are independent Poisson (or binomial) variables that happen to sum to the batch size. So

    P(all X_c >= k) = [z^B] prod_c W_c(z) / [z^B] prod_c W_c(z) without the bound k,   W_c(z) = sum_{j >= k} w_c(j) z^j

with w_c(j) = p_c^j / j! for i.i.d. draws, where the denominator is 1 / B!, and w_c(j) = (N_c choose j) for a shuffled
epoch, where it is (N choose B). A coefficient may be read at any radius t of the circle z = t exp(i omega): with the
plain choice it can lie hundreds of orders of magnitude below the largest one, where an FFT sees only rounding. We take
the radius where the sum of the bounded counts has mean B, so that the wanted coefficient is the largest of all.

Source: Levin, *A Representation for Multinomial Cumulative Distribution Functions*, 1981; the tilt is the saddle point
of Daniels, *Saddlepoint Approximations in Statistics*, 1954, here without the approximation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from lightning_hp.functional.batch_size.class_draws import Array, Draws, log_choose, log_factorial

#: So many rows are worked on at once, rising, so that their windows are alike and the memory stays small.
ROWS = 64

#: Standard deviations on each side that hold all of a count, as far as double precision can tell.
REACH = 9


class _Counts(NamedTuple):
    """Bounded counts of some rows at one radius.

    Attributes:
        members: Classes in each row, shape (rows,).
        first: The smallest count that matters, shape (rows,).
        shares: Probability of ``first``, ``first + 1``, ..., shape (rows, counts).
        log_weight: Log of W_c(t), shape (rows,).
    """

    members: Array
    first: Array
    shares: Array
    log_weight: Array

    def moments(self) -> tuple[float, float]:
        """Mean and variance of the sum over all classes of these rows."""
        steps = np.arange(self.shares.shape[1])
        mean = self.shares @ steps
        variance = self.shares @ np.square(steps) - np.square(mean)
        return float(self.members @ (self.first + mean)), float(self.members @ variance)


def log_coverage(draws: Draws, batch_size: int, min_per_class: int) -> float:
    """Log of the probability that every class comes ``min_per_class`` times or more.

    For 1 <= k, k C <= B, and without replacement B < N and k <= N_c for every class: all else is certain or impossible.
    """
    log_t, spread, blocks = _tilt(draws, batch_size, min_per_class)
    # Long enough that what wraps around is nothing beside the middle.
    length = max(2 * (REACH * spread + 32), *(block.shares.shape[1] for block in blocks))
    length = 2 ** math.ceil(math.log2(length))
    spectrum = np.ones(length // 2 + 1, dtype=np.complex128)
    log_weight, offset = 0.0, 0.0
    for block in blocks:
        transform = np.fft.rfft(block.shares, n=length)
        spectrum *= np.prod(transform if np.all(block.members == 1) else transform ** block.members[:, None], axis=0)
        log_weight += float(block.members @ block.log_weight)
        offset += float(block.members @ block.first)
    at_batch_size = float(np.fft.irfft(spectrum, n=length)[int(batch_size - offset) % length])
    if draws.replacement:
        all_batches = batch_size * math.log(draws.total) - math.lgamma(batch_size + 1)
    else:
        all_batches = float(log_choose(draws.total, batch_size))
    return math.log(max(at_batch_size, 1e-300)) + log_weight - batch_size * log_t - all_batches


def _tilt(draws: Draws, batch_size: int, min_per_class: int) -> tuple[float, float, list[_Counts]]:
    """Log of the radius where the bounded counts have about the batch size as mean, their deviation, and themselves.

    The identity holds at any radius, so near is enough: Newton's method on log t, where the derivative of the mean is
    the variance, kept between the radii that were too small and too large.
    """
    log_t = math.log(batch_size / (draws.total if draws.replacement else draws.total - batch_size))
    low, high = -math.inf, math.inf
    while True:
        blocks = _blocks(draws, log_t, min_per_class)
        mean, variance = (sum(values) for values in zip(*(block.moments() for block in blocks), strict=True))
        if abs(mean - batch_size) <= max(0.5, 0.1 * math.sqrt(variance)):
            return log_t, math.sqrt(variance), blocks
        low, high = (low, log_t) if mean > batch_size else (log_t, high)
        log_t -= min(max((mean - batch_size) / max(variance, 1e-12), -2.0), 2.0)
        if not low < log_t < high:
            log_t = (low + high) / 2


def _blocks(draws: Draws, log_t: float, min_per_class: int) -> list[_Counts]:
    pieces = [slice(start, start + ROWS) for start in range(0, len(draws.sizes), ROWS)]
    return [_counts(draws.sizes[rows], draws.members[rows], draws.replacement, log_t, min_per_class) for rows in pieces]


def _counts(sizes: Array, members: Array, replacement: bool, log_t: float, min_per_class: int) -> _Counts:
    """The window of counts that matters for each class, by the ratio of each weight to the one before."""
    t = math.exp(log_t)
    centre = sizes * (t if replacement else t / (1 + t))
    first = np.maximum(min_per_class, np.floor(centre - REACH * np.sqrt(centre) - 10))
    upper = np.maximum(centre, min_per_class)
    last = upper + REACH * np.sqrt(upper) + 40
    if not replacement:
        last = np.minimum(last, sizes)
    count = first[:, None] + np.arange(1, int(np.max(last - first)) + 1)
    with np.errstate(divide="ignore"):  # beyond the last sample of a class the weight is zero
        left = np.log(sizes)[:, None] if replacement else np.log(np.maximum(sizes[:, None] - count + 1, 0))
        log_ratio = left + log_t - np.log(count)
    log_shares = np.concatenate([np.zeros((len(sizes), 1)), np.cumsum(log_ratio, axis=1)], axis=1)
    log_first = first * np.log(sizes) - log_factorial(first) if replacement else log_choose(sizes, first)
    top = log_shares.max(axis=1)
    shares = np.exp(log_shares - top[:, None])
    total = shares.sum(axis=1)
    return _Counts(members, first, shares / total[:, None], log_first + first * log_t + top + np.log(total))
