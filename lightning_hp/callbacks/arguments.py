"""What the callbacks ask of their arguments, said in the same words."""

from __future__ import annotations

from typing import Any


def is_count(value: Any, least: int) -> bool:
    """Whether ``value`` is an int of at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def expect(holds: bool, what: str, got: Any) -> None:
    """Raises ``ValueError`` unless something holds.

    Args:
        holds: Whether it does.
        what: What was expected, to follow "Expected".
        got: What came.

    """
    if not holds:
        raise ValueError(f"Expected {what}, but got {got!r}.")
