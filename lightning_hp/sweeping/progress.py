"""A progress bar over the trainings of a sweep, with the best score so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tqdm.auto import tqdm


class Progress(Protocol):
    """Is told of every training of a sweep."""

    def expect(self, count: int) -> None:
        """Announces further trainings."""

    def advance(self, best: str, training: str) -> None:
        """Counts one training.

        Args:
            best: The best score so far and its settings, or nothing.
            training: The training that ended, its score or why it failed.

        """


class _Bar:
    """Shows a bar with the best settings so far."""

    def __init__(self, bar: tqdm[Any]) -> None:
        self._bar = bar

    def expect(self, count: int) -> None:
        """Announces further trainings."""
        self._bar.total = (self._bar.total or 0) + count
        self._bar.refresh()

    def advance(self, best: str, training: str) -> None:
        """Counts one training; a bar has no room for it."""
        self._bar.set_postfix_str(best, refresh=False)
        self._bar.update()


@contextmanager
def sweep_progress(enable: bool) -> Iterator[Progress]:
    """Shows a bar on a terminal while the context is open; in a log file it writes nothing."""
    bar: tqdm[Any]
    with tqdm(desc="Sweep", unit=" trainings", total=0, leave=False, disable=None if enable else True) as bar:
        yield _Bar(bar)
