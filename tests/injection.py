"""Injects an error, a KeyboardInterrupt or a real SIGINT at a line of the package that runs."""

from __future__ import annotations

import contextlib
import linecache
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning_hp
from lightning_hp.snapshot import undo as undo_module

PACKAGE = str(Path(lightning_hp.__file__).parent)
# The lines of an ExitStack run callbacks one after the other.
FILES = (PACKAGE, contextlib.__file__)


class InjectedError(Exception):
    """What a user's own code could raise at this line."""


class Injection:
    """Counts the lines of the package that run within :meth:`active`, and acts at one of them.

    Args:
        at: The number of the line, from 0; ``None``: only counts.
        how: ``"error"`` and ``"interrupt"`` raise at the line; the lines that restore are not counted, since an
            exception of their own ends them. ``"sigint"`` sends a real signal, and counts every line.

    """

    def __init__(self, at: int | None = None, how: str = "sigint") -> None:
        self.at, self.how = at, how
        self.lines = 0
        self.acted = False
        self.place = ""
        self._entered: list[tuple[FrameType, int]] = []
        #: The number of each different line when it ran first, and when it ran last.
        self.first: dict[str, int] = {}
        self.last: dict[str, int] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        before = sys.gettrace()
        here: FrameType | None = sys._getframe()
        sys.settrace(self._trace)
        while here is not None:  # the functions that run already
            here.f_trace = self._trace if here.f_code.co_filename.startswith(PACKAGE) else here.f_trace
            here = here.f_back
        try:
            yield
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(FILES):
            return None
        if event == "line":
            self._line(frame)
        return self._trace

    def _line(self, frame: FrameType) -> None:
        if self.how != "sigint" and undo_module._is_below(frame, undo_module._PROTECTED):
            return
        if linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with "):
            # Trace functions, not signals, act between the end of a block and the first instruction of its `__exit__`.
            key = frame, frame.f_lineno
            if key in self._entered:
                self._entered.remove(key)
                return
            self._entered.append(key)
        number, self.lines = self.lines, self.lines + 1
        if self.at is None:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            self.first.setdefault(place, number)
            self.last[place] = number
        if number != self.at:
            return
        self.acted, self.place = True, f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        if self.how == "sigint":
            signal.raise_signal(signal.SIGINT)
        else:
            raise InjectedError if self.how == "error" else KeyboardInterrupt

    @property
    def points(self) -> list[int]:
        """Each different line once, or twice: when it ran first, and when it ran last."""
        return sorted({*self.first.values(), *self.last.values()})


def sample(points: Sequence[int], wanted: int) -> list[int]:
    """So many of the points, evenly spaced, with the first and the last."""
    return [points[round(index * (len(points) - 1) / max(wanted - 1, 1))] for index in range(wanted)]
