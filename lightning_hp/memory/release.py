"""What to do when memory ran out: let go of what the error holds, then give memory back."""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from lightning_hp.memory.oom import is_out_of_memory

T = TypeVar("T")


def attempt(run: Callable[[], T], device: torch.device | str) -> tuple[T, None] | tuple[None, str]:
    """Runs ``run()``; if memory runs out, lets go of all that it held and says so instead of raising.

    A traceback keeps the locals of every frame that it passed alive, and with them the batch and the activations. They
    are dropped, of the error and of those that it was raised from, before memory is given back.

    Args:
        run: What to run. What its own closure holds stays alive.
        device: Where it runs.

    Returns:
        What it returned and ``None``, or ``None`` and the error in a line.

    Raises:
        Exception: Whatever it raises that is not about memory, untouched.

    Costs nothing if it fits; else a garbage collection. Does not help with a generator that is in the traceback and
    was to go on: it is closed.

    Source: Lightning's and accelerate's advice to release outside of the handler.

    Example:
        >>> attempt(lambda: 42, "cpu")
        (42, None)
        >>> def too_large():
        ...     raise MemoryError("Unable to allocate 8.00 GiB")
        >>> attempt(too_large, "cpu")
        (None, 'MemoryError: Unable to allocate 8.00 GiB')

    """
    try:
        return run(), None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        said = traceback.format_exception_only(error)[0].splitlines()[0]
        _let_go(error, set())
    release_memory(device)  # here, since only the end of the handler lets go of the error itself
    return None, said


def release_memory(device: torch.device | str) -> None:
    """Gives back memory that nothing refers to: cycles, then the device's cache, then what malloc keeps.

    Call it after the ``except`` block, not within: until its end the traceback keeps the tensors of the step alive.

    Args:
        device: Where the training runs.

    Costs a full garbage collection, 0.1 s to 1 s with a large program, and the next step allocates anew.

    Example:
        >>> release_memory("cpu")

    """
    gc.collect()
    empty_cache = getattr(device_module(device), "empty_cache", None)
    if empty_cache is not None:
        empty_cache()
    trim_heap()


@contextmanager
def swift_collections() -> Iterator[None]:
    """Within, a full garbage collection looks only at what was made within, so that :func:`release_memory` is swift.

    What is there at the start is set aside, garbage among it collected before. A program with torch and Lightning in it
    holds half a million objects, which a collection else goes through after each failed trial.

    Costs one full collection, 0.1 s to 1 s with a large program. Does nothing where objects were set aside already, by
    the user: they could not be told apart at the end.

    Source: ``gc.freeze`` of CPython.

    Example:
        >>> with swift_collections():
        ...     release_memory("cpu")

    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def trim_heap() -> None:
    """Has glibc return the free memory that it keeps, so that what is resident is what is in use; else does nothing."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def device_module(device: torch.device | str) -> Any:
    """``torch.cuda`` for ``"cuda:1"`` and so on, ``None`` for a device that has no module."""
    try:
        return torch.get_device_module(torch.device(device))
    except RuntimeError:  # "meta", for one
        return None


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    except OSError:
        return None
    return trim


def _let_go(error: BaseException | None, seen: set[int]) -> None:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    traceback.clear_frames(error.__traceback__)
    parts = getattr(error, "exceptions", None)
    for other in (error.__cause__, error.__context__, *(parts if isinstance(parts, tuple) else ())):
        _let_go(other, seen)
