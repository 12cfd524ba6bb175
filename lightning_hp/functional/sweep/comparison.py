"""Which of several settings are better, when each was trained with the same seeds.

Trainings with the same seed share the split, the initial weights or the order of the data, so their scores rise and
fall together. Settings are therefore compared by their differences, in a randomised block design with seeds as blocks:

    residual of a training = score - mean of its setting - mean of its seed + mean of all
    variance               = sum of squared residuals / ((settings - 1) (seeds - 1))
    error of a difference  = sqrt(2 variance / seeds)
    interval               = difference ± q error / sqrt(2), q from the studentized range (Tukey): with 95 % probability
                             all intervals of the table hold at once

A setting that diverges in one of its trainings would make the variance of all others large. A setting whose best score
is below the worst score of the best setting does not count for the common variance. It has its own, if that is larger;
but its interval ends where that of a setting would end that always has its best score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_hp.functional.checks import check_array, check_choice, check_number, wrong_value

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Settings compared with the best of them. Rows are in the order of the scores that were given.

    Attributes:
        means: Mean score of each setting; NaN where a training is missing.
        standard_errors: Standard error of each mean, from its own scores; NaN with one seed.
        best: Row of the best mean, or ``None`` if every row lacks a score.
        differences: Mean difference to the best setting, at most 0 if higher is better, at least 0 otherwise.
        margins: Half width of the interval of each difference; 0 for the best, NaN with one seed.
        errors: Standard error of each difference; 0 for the best, NaN with one seed.

    """

    means: tuple[float, ...]
    standard_errors: tuple[float, ...]
    best: int | None
    differences: tuple[float, ...]
    margins: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def ties(self) -> tuple[int, ...]:
        """Rows that cannot be told from the best, the best among them; with one seed the best alone is known."""
        return self._within(self.margins)

    @property
    def within_one_error(self) -> tuple[int, ...]:
        """Rows whose mean is at most one standard error of the difference from the best, the best among them."""
        return self._within(self.errors)

    def _within(self, widths: Sequence[float]) -> tuple[int, ...]:
        pairs = enumerate(zip(self.differences, widths, strict=True))
        return tuple(row for row, (difference, width) in pairs if row == self.best or abs(difference) <= width)


def compare_settings(scores: Any, mode: Literal["max", "min"] = "max", confidence: float = 0.95) -> Comparison:
    """Compares settings that were trained with the same seeds.

    Args:
        scores: Scores of shape (settings, seeds); a row with a NaN is a setting of which a training is missing, and is
            left out of the comparison.
        mode: ``"max"`` if a higher score is better, ``"min"`` if a lower one is.
        confidence: Probability with which all intervals of the comparison hold at once, between 0 and 1.

    Returns:
        Means, errors, and the differences to the best setting with their intervals.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the scores are not of two dimensions, or ``confidence`` is out of range.

    Note:
        Needs SciPy for two seeds and more. The intervals assume residuals of about normal distribution. The best
        setting is chosen by the same scores, so its own mean is a little too good.

    References:
        Tukey, *The problem of multiple comparisons*, 1953; Box, Hunter and Hunter, *Statistics for Experimenters*,
        2005, chapter 4 (blocks).

    Example:
        >>> compared = compare_settings([[0.80, 0.81, 0.82], [0.94, 0.951, 0.96], [0.94, 0.95, 0.96]])
        >>> compared.best, compared.ties
        (1, (1, 2))

    """
    table = check_array("scores", scores, "scores of shape (settings, seeds)")
    if table.ndim != 2 or 0 in table.shape:
        wrong_value("scores", "scores of shape (settings, seeds)", scores)
    check_choice("mode", mode, ("max", "min"))
    confidence = check_number("confidence", confidence, above=0, below=1)
    rows, seeds = table.shape
    complete = np.flatnonzero(np.isfinite(table).all(axis=1))
    means = np.full(rows, math.nan)
    means[complete] = table[complete].mean(axis=1)
    standard_errors, errors, margins, differences = (np.full(rows, math.nan) for _ in range(4))
    if not len(complete):
        empty = tuple(means.tolist())
        return Comparison(empty, empty, None, empty, empty, empty)
    sign = 1 if mode == "max" else -1
    best = int(complete[np.argmax(sign * means[complete])])
    differences[complete] = means[complete] - means[best]
    if seeds > 1:
        standard_errors[complete] = table[complete].std(axis=1, ddof=1) / math.sqrt(seeds)
        place = int(np.searchsorted(complete, best))
        errors[complete], margins[complete] = _errors_and_margins(sign * table[complete], place, confidence)
    return Comparison(
        means=tuple(means.tolist()),
        standard_errors=tuple(standard_errors.tolist()),
        best=best,
        differences=tuple(differences.tolist()),
        margins=tuple(margins.tolist()),
        errors=tuple(errors.tolist()),
    )


def _errors_and_margins(table: Array, best: int, confidence: float) -> tuple[Array, Array]:
    """The standard error of each row's difference to the best row, and the half width of its interval."""
    rows, seeds = table.shape
    if rows == 1:
        return np.zeros(1), np.zeros(1)
    comparable = np.flatnonzero(table.max(axis=1) >= table[best].min())
    if len(comparable) == 1:
        comparable = np.arange(rows)  # the best stands alone: only the others show how much scores vary
    degrees = (len(comparable) - 1) * (seeds - 1)
    residuals = table[comparable] - table[comparable].mean(axis=1, keepdims=True)
    residuals -= residuals.mean(axis=0)
    common = float((residuals**2).sum()) / degrees
    own = np.maximum(common, table.var(axis=1, ddof=1))
    own[comparable] = common
    multiple = _studentized_range(confidence, rows, degrees) / math.sqrt(2)
    errors = np.sqrt((common + own) / seeds)
    gaps = table[best].mean() - table.max(axis=1) - multiple * math.sqrt(2 * common / seeds)
    distances = table[best].mean() - table.mean(axis=1)
    margins = np.where(gaps > 0, np.minimum(multiple * errors, distances - gaps), multiple * errors)
    errors[best] = margins[best] = 0.0
    return errors, margins


@lru_cache
def _studentized_range(confidence: float, rows: int, degrees: int) -> float:
    """The quantile; SciPy integrates for 0.1 s."""
    from scipy.stats import studentized_range  # type: ignore[import-untyped]

    return float(studentized_range.ppf(confidence, rows, degrees))
