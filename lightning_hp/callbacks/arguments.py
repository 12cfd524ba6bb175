"""What the callbacks ask of their arguments, said in the same words."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any


def is_count(value: Any, least: int) -> bool:
    """Whether ``value`` is an int of at least ``least``."""
    return isinstance(value, Integral) and not isinstance(value, bool) and bool(value >= least)


def is_between(value: Any, low: float, high: float) -> bool:
    """Whether ``value`` is a number from ``low`` to ``high``, both included."""
    return isinstance(value, Real) and not isinstance(value, bool) and low <= float(value) <= high


def expect(holds: bool, what: str, got: Any) -> None:
    """Raises ``ValueError`` unless something holds.

    Args:
        holds: Whether it does.
        what: What was expected, to follow "Expected".
        got: What came.

    """
    if not holds:
        raise ValueError(f"Expected {what}, but got {got!r}.")
