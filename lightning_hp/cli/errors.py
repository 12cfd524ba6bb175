"""What the user gave cannot be used: one sentence, no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class WrongInputError(Exception):
    """What the user gave cannot be used; the message is one sentence."""


@contextmanager
def as_wrong_input() -> Iterator[None]:
    """Errors of checks become one sentence for the user."""
    try:
        yield
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise WrongInputError(str(error)) from error
