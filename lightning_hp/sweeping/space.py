"""The subjects of a sweep and their values; settings, and how they are named."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from lightning_hp.functional.checks import check_iterable, is_number, wrong_type, wrong_value
from lightning_hp.functional.sweep.labels import label_of

#: A value for each name, such as ``{"lr": 0.1, "batch_size": 32}``.
Settings: TypeAlias = dict[str, Any]

_WHAT = 'a dict of subjects and their values, as in {"lr": [0.01, 0.1], ("batch_size", "width"): [(32, 64), (64, 128)]}'


@dataclass(frozen=True)
class Subject:
    """One subject: a name, or several names that move together, and the values to try.

    Attributes:
        names: One name, or the names that are coupled.
        values: The values, each a tuple with one entry per name; in the user's order.

    """

    names: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]

    @property
    def label(self) -> str:
        """The names, joined by a comma."""
        return ", ".join(self.names)

    @property
    def is_numeric(self) -> bool:
        """Whether it is one name whose values are all numbers."""
        return len(self.names) == 1 and all(is_number(value) for (value,) in self.values)

    def settings(self) -> list[Settings]:
        """Each value as settings of its names."""
        return [dict(zip(self.names, value, strict=True)) for value in self.values]

    def value_in(self, settings: Mapping[str, Any]) -> tuple[Any, ...]:
        """The value that the settings have."""
        return tuple(settings[name] for name in self.names)


class Space:
    """The subjects of a sweep in the user's order.

    Args:
        subjects: A mapping from a name, or a tuple of names that move together, to the list of its values. A value is a
            number, a text, a bool, ``None``, a function or class, or any object whose ``repr`` states what it is.
        start: Values of some names while other subjects are tried; the first of the list for all others.

    Raises:
        TypeError: If it is no mapping of lists.
        ValueError: If a list is empty, a value occurs twice or cannot be named, a name belongs to two subjects, or a
            coupled value has another number of entries than its names.

    """

    def __init__(self, subjects: Any, start: Any = None) -> None:
        if not isinstance(subjects, Mapping):
            wrong_type("space", _WHAT, subjects)
        if not subjects:
            wrong_value("space", _WHAT, subjects)
        self.subjects = tuple(_subject(names, values) for names, values in subjects.items())
        self.names = tuple(name for subject in self.subjects for name in subject.names)
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise ValueError(f"Expected each name in one subject of `space`, but {twice[0]!r} is in two.")
        self.start: Settings = {}
        for subject in self.subjects:
            self.start |= subject.settings()[0]
        self.start |= _start(start, self.names)
        self._known = {
            subject.label: {label_of(value) for value in (*subject.values, subject.value_in(self.start))}
            for subject in self.subjects
        }

    def holds(self, settings: Mapping[str, Any], may_lie_between: bool) -> bool:
        """Whether settings are of this space: each value in its list, or its start, or between numbers of the list."""
        return set(settings) == set(self.names) and all(
            self._has(subject, subject.value_in(settings), may_lie_between) for subject in self.subjects
        )

    def _has(self, subject: Subject, value: tuple[Any, ...], may_lie_between: bool) -> bool:
        if label_of(value) in self._known[subject.label]:
            return True
        columns = zip(value, zip(*subject.values, strict=True), strict=True)
        return may_lie_between and all(
            is_number(entry) and all(map(is_number, column)) and min(column) <= entry <= max(column)
            for entry, column in columns
        )

    def grid(self) -> Iterator[Settings]:
        """All combinations; the last subject changes fastest."""
        combinations: list[Settings] = [{}]
        for subject in self.subjects:
            combinations = [{**left, **right} for left in combinations for right in subject.settings()]
        yield from combinations

    def __len__(self) -> int:
        return math.prod(len(subject.values) for subject in self.subjects)


def _subject(names: Any, values: Any) -> Subject:
    coupled = isinstance(names, tuple)
    all_names = names if coupled else (names,)
    if not all_names or not all(isinstance(name, str) and name for name in all_names):
        wrong_type("space", f"{_WHAT}; each key a str or a tuple of str", names)
    label = ", ".join(all_names)
    listed = check_iterable(f"space[{label!r}]", values, "a list of values")
    if not listed:
        wrong_value(f"space[{label!r}]", "a list of one or more values", values)
    rows = []
    for value in listed:
        if coupled and (not isinstance(value, (tuple, list)) or len(value) != len(all_names)):
            wrong_value(f"space[{label!r}]", f"values of {len(all_names)} entries, one per name", value)
        rows.append(tuple(map(_plain, value if coupled else (value,))))
    for row in rows:
        if any(isinstance(entry, float) and not math.isfinite(entry) for entry in row):
            wrong_value(f"space[{label!r}]", "finite numbers", row if coupled else row[0])
    keys = [tuple(entry if is_number(entry) else label_of(entry) for entry in row) for row in rows]
    if twice := [row for row, key in zip(rows, keys, strict=True) if keys.count(key) > 1]:
        wrong_value(f"space[{label!r}]", "values that differ", twice[0] if coupled else twice[0][0])
    return Subject(all_names, tuple(rows))


def _start(start: Any, names: tuple[str, ...]) -> Settings:
    if start is None:
        return {}
    if not isinstance(start, Mapping):
        wrong_type("start", "a dict of names and values, or None", start)
    if unknown := [name for name in start if name not in names]:
        raise ValueError(
            f"Expected `start` to have names of `space`, which are {', '.join(names)}; got {unknown[0]!r}."
        )
    return {name: _plain(value) for name, value in start.items()}


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    return value.item() if isinstance(value, np.generic) else value
