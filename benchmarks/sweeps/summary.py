"""Regret against the number of trainings, from ``strategies.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.sweeps.strategies import PATH

#: Rows of the tables and lines of the figure.
SHOWN = ("one at a time", "measured order", "hybrid", "TPE", "random", "ASHA", "grid")


@lru_cache(maxsize=1)
def all_rows() -> list[dict[str, Any]]:
    """All repetitions of all strategies."""
    loaded: list[dict[str, Any]] = json.loads(PATH.read_text())
    return loaded


def repetitions(task: str, strategy: str) -> list[dict[str, Any]]:
    """The repetitions of a strategy on a task."""
    if strategy == "hybrid":
        strategy = "hybrid, TPE"  # as `sweep` has it
    return [row for row in all_rows() if (row["task"], row["strategy"]) == (task, strategy)]


def regret_after(row: dict[str, Any], trainings: float) -> float | None:
    """Regret of what would be chosen after some trainings; ``None`` before the first setting has all seeds."""
    reached = [regret for cost, regret, _ in row["steps"] if cost <= trainings]
    return reached[-1] if reached else None


def regrets(task: str, strategy: str, trainings: float) -> list[float]:
    """The regrets of all repetitions; empty if one of them has chosen nothing yet."""
    found = [regret_after(row, trainings) for row in repetitions(task, strategy)]
    return [] if None in found else [regret for regret in found if regret is not None]


def with_margin(values: Sequence[float]) -> str:
    """A mean with the half width of its 95 % interval."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ± {margin(values):.2f}"


def margin(values: Sequence[float]) -> float:
    """Half width of the 95 % interval of a mean."""
    quantile = float(stats.t.ppf(0.975, len(values) - 1))
    return quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Difference of two means and half width of its 95 % interval, by Welch."""
    variances = [float(np.var(values, ddof=1)) / len(values) for values in (one, other)]
    total = sum(variances)
    if total == 0:
        return float(np.mean(one) - np.mean(other)), 0.0
    freedom = total**2 / sum(v**2 / (len(x) - 1) for v, x in zip(variances, (one, other), strict=True))
    return float(np.mean(one) - np.mean(other)), float(stats.t.ppf(0.975, freedom)) * math.sqrt(total)
