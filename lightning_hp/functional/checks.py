"""What a number has to be, said in the same words everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any


def check_whole(name: str, value: int, least: int) -> int:
    """``value`` as an int of at least ``least``.

    Raises:
        ValueError: If it is not.

    """
    try:
        is_whole = value >= least and math.isfinite(value) and not value % 1
    except TypeError:  # no number
        is_whole = False
    if not is_whole:
        raise ValueError(f"Expected `{name}` to be an int >= {least}, but got {value!r}.")
    return int(value)


def check_range(name: str, value: Any, what: str, holds: Callable[[Any], bool]) -> None:
    """Raises ``ValueError`` unless ``value`` is a number, not a truth value, for which ``holds``."""
    if not is_number(value) or not holds(value):
        raise ValueError(f"Expected `{name}` to be {what}, but got {value!r}.")


def check_radius(name: str, value: Any) -> None:
    """Raises ``ValueError`` unless ``value`` is a finite number >= 0."""
    check_range(name, value, "a finite number >= 0", lambda number: 0 <= number < math.inf)


def check_probability(name: str, value: float) -> None:
    """Raises ``ValueError`` unless ``value`` is between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"Expected `{name}` to be > 0 and < 1, but got {value!r}.")


def is_number(value: Any) -> bool:
    """Whether ``value`` is a real number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_count(value: Any, least: int) -> bool:
    """Whether ``value`` is an int of at least ``least``."""
    return isinstance(value, (int, Integral)) and not isinstance(value, bool) and int(value) >= least


def is_between(value: Any, low: float, high: float) -> bool:
    """Whether ``value`` is a number from ``low`` to ``high``, both included."""
    return isinstance(value, (int, float, Real)) and not isinstance(value, bool) and low <= float(value) <= high


def expect(holds: bool, what: str, got: Any) -> None:
    """Raises ``ValueError`` unless something holds.

    Args:
        holds: Whether it does.
        what: What was expected, to follow "Expected".
        got: What came.

    """
    if not holds:
        raise ValueError(f"Expected {what}, but got {got!r}.")
