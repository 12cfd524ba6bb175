"""Says in an error of the user's code what a search was doing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def with_note(note: str) -> Iterator[None]:
    """Adds a note to an error that passes (Python 3.11 or newer)."""
    try:
        yield
    except Exception as error:
        if hasattr(error, "add_note"):
            error.add_note(note)
        raise
