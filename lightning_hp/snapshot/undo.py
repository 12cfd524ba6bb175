"""Restoring that Ctrl-C cannot end halfway: a SIGINT that comes meanwhile acts afterwards.

A user who waits presses Ctrl-C twice. The first one ends a step and starts the restoring; a second one that ended that
too would leave half of the weights of a rehearsal, without a word. Python runs the handler of a signal between two
instructions of the main thread. The handler that is set here looks at the frames below it: within
:meth:`Undo.__exit__`, from its first instruction on, it only notes the signal.
"""

from __future__ import annotations

import inspect
import signal
import threading
from collections.abc import Callable, Collection
from contextlib import ExitStack
from types import CodeType, FrameType, TracebackType
from typing import Any, TypeVar

from typing_extensions import override

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Undo(ExitStack):
    """An ``ExitStack`` that runs its callbacks to the end; a SIGINT during them acts after the last one.

    Register a callback before the change that it undoes. In other threads, which get no signals, and where the process
    has no handler of Python's own for SIGINT, it is an ordinary ``ExitStack``.

    Example:
        >>> values = [1, 2]
        >>> with Undo() as undo:
        ...     _ = undo.callback(values.append, 2)
        ...     _ = values.pop()
        >>> values
        [1, 2]

    """

    @override
    def __enter__(self) -> Undo:
        _deferral.begin()
        return super().__enter__()

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            return bool(super().__exit__(kind, error, trace))
        finally:
            _deferral.end()


def uninterrupted(method: _Function) -> _Function:
    """Marks a method that does nothing but end an :class:`Undo`: a SIGINT between the two calls is deferred too."""
    _PROTECTED.add(method.__code__)
    return method


_PROTECTED: set[CodeType] = {Undo.__exit__.__code__}


class _Deferral:
    """The handler of SIGINT while there is an :class:`Undo`."""

    def __init__(self) -> None:
        self._num_open = 0
        self._former: Any = None
        self._noted: tuple[int, FrameType | None] | None = None

    def begin(self) -> None:
        """Sets the handler, if it is not set."""
        if threading.current_thread() is not threading.main_thread():
            return
        former = signal.getsignal(signal.SIGINT)
        if former != self._handle:
            if not callable(former):
                return
            self._former, self._num_open = former, 0
            signal.signal(signal.SIGINT, self._handle)
        self._num_open += 1

    def end(self) -> None:
        """Sets the former handler at the end of the outermost :class:`Undo`, and calls it for a noted signal."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._num_open -= 1
        # Not in a variable: a frame that refers to itself would keep the tensors of its callers.
        if _is_below(inspect.currentframe(), {Undo.__exit__.__code__}, skipped=2):
            return  # it is one of the callbacks of another one, which goes on
        if self._num_open <= 0 and signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, self._former)
        if self._noted is not None:
            noted, self._noted = self._noted, None
            self._former(*noted)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if _is_below(frame, _PROTECTED):
            self._noted = (number, frame)
        else:
            self._former(number, frame)


def _is_below(frame: FrameType | None, codes: Collection[CodeType], skipped: int = 0) -> bool:
    """Whether this frame or one that has called it runs one of these functions; the first ones may be skipped."""
    while frame is not None:
        if skipped <= 0 and frame.f_code in codes:
            return True
        skipped -= 1
        frame = frame.f_back
    return False


_deferral = _Deferral()
