"""What a sampler chooses along: the positions in a list, or the range around its best value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning_hp.functional.checks import is_number
from lightning_hp.functional.sweep.labels import label_of
from lightning_hp.functional.sweep.spacing import interpolate, position_of
from lightning_hp.sweeping.space import Settings, Subject

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_DIGITS = 4


class ListAxis:
    """The values of a subject. Numbers are ordered by size; other values have no order.

    Args:
        subject: The subject.

    """

    def __init__(self, subject: Subject) -> None:
        self.name = subject.label
        self.names = subject.names
        self._is_ordered = subject.is_numeric
        self._values = sorted(subject.values) if subject.is_numeric else list(subject.values)

    def distribution(self) -> BaseDistribution:
        """The indices of the list."""
        from optuna.distributions import CategoricalDistribution, IntDistribution

        last = len(self._values) - 1
        return IntDistribution(0, last) if self._is_ordered else CategoricalDistribution(list(range(last + 1)))

    def settings(self, parameter: Any) -> Settings:
        """The settings of an index."""
        return dict(zip(self.names, self._values[parameter], strict=True))

    def parameter(self, settings: Mapping[str, Any]) -> Any:
        """The index of a value; ``None`` if it is not in the list."""
        labels = [label_of(value) for value in self._values]
        label = label_of(tuple(settings[name] for name in self.names))
        return labels.index(label) if label in labels else None


class RangeAxis:
    """The range between the neighbours of one value: by ratio if the list is geometric, else linear.

    The names of a coupled subject move together along the list.

    Args:
        subject: A subject of numbers.
        best: The settings whose value the range is around.

    """

    def __init__(self, subject: Subject, best: Mapping[str, Any]) -> None:
        self.name = subject.label
        self.names = subject.names
        rows = sorted(subject.values)
        self._columns = list(zip(*rows, strict=True))
        place = position_of([float(value) for value in self._columns[0]], float(best[self.names[0]]))
        self._low = float(max(0, math.ceil(place) - 1))
        self._high = float(min(len(rows) - 1, math.floor(place) + 1))

    def distribution(self) -> BaseDistribution:
        """The positions in the list, as real numbers."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self._low, self._high)

    def settings(self, parameter: Any) -> Settings:
        """The settings of a position; whole numbers stay whole, others have four digits."""
        return {
            name: _rounded(interpolate(column, parameter), all(isinstance(value, int) for value in column))
            for name, column in zip(self.names, self._columns, strict=True)
        }

    def parameter(self, settings: Mapping[str, Any]) -> Any:
        """The position of a value; ``None`` if it is out of the range, or its names do not belong together."""
        values = [settings[name] for name in self.names]
        if not all(map(is_number, values)):
            return None
        first = self._columns[0]
        if not min(first) <= values[0] <= max(first):
            return None
        position = position_of([float(value) for value in first], float(values[0]))
        if not self._low <= position <= self._high:
            return None
        along = self.settings(position)
        agrees = all(math.isclose(along[name], settings[name], rel_tol=0.02) for name in self.names)
        return position if agrees else None


def range_axis(subject: Subject, best: Mapping[str, Any]) -> RangeAxis | None:
    """The range around the best value of a subject; ``None`` if it has no numbers, or only one value."""
    if len(subject.values) < 2 or not all(is_number(entry) for row in subject.values for entry in row):
        return None
    first = [row[0] for row in subject.values]
    if len(set(first)) < len(first) or not min(first) <= best[subject.names[0]] <= max(first):
        return None
    return RangeAxis(subject, best)


def _rounded(value: float, whole: bool) -> float:
    return round(value) if whole else float(f"{value:.{_DIGITS}g}")
