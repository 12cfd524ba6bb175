"""What a number has to be, said in the same words everywhere."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any


def check_whole(name: str, value: int, least: int) -> int:
    """``value`` as an int of at least ``least``.

    Raises:
        ValueError: If it is not.

    """
    if not value >= least or not math.isfinite(value) or value % 1:
        raise ValueError(f"Expected `{name}` to be an int >= {least}, but got {value!r}.")
    return int(value)


def check_probability(name: str, value: float) -> None:
    """Raises ``ValueError`` unless ``value`` is between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"Expected `{name}` to be > 0 and < 1, but got {value!r}.")


def is_number(value: Any) -> bool:
    """Whether ``value`` is a real number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)
