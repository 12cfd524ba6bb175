"""Continues after memory ran out: drops what the error keeps alive, then returns free memory to the system."""

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

from lightning_hp.memory.oom import is_out_of_memory, is_too_large

_Result = TypeVar("_Result")


def attempt(
    run: Callable[[], _Result], device: torch.device | str, smaller_ran: bool = False
) -> tuple[_Result, None] | tuple[None, str]:
    """Calls ``run()``; if memory runs out, releases the memory and returns the message instead of raising.

    Args:
        run: The function to call. The variables of its own closure stay alive.
        device: Where it runs.
        smaller_ran: Whether a smaller batch has run: an error that a batch too large for a kernel raises, and other
            faults too, then counts as if memory had run out.

    Returns:
        The result of ``run`` and ``None``, or ``None`` and the first line of the error.

    Raises:
        Exception: Every error of ``run`` that does not mean that memory ran out, unchanged.

    Note:
        A traceback keeps the local variables of every frame alive, and with them the batch and the activations. They
        are cleared, for the error and for those it was raised from, before memory is released.

        An error takes a full garbage collection. A generator in the traceback is closed, so it cannot be resumed.

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
        if not is_out_of_memory(error) and not (smaller_ran and is_too_large(error)):
            raise
        message = traceback.format_exception_only(error)[0].splitlines()[0]
        _clear_frames(error, set())
    release_memory(device)  # after the handler, which keeps the error itself alive
    return None, message


def release_memory(device: torch.device | str) -> None:
    """Releases memory that nothing refers to: reference cycles, then the cache of the device, then that of malloc.

    Args:
        device: Where the training runs.

    Note:
        Call it after an ``except`` block, not inside: the traceback keeps the tensors of the step alive until its end.
        Runs a full garbage collection, which takes 0.1 s to 1 s in a large program. The next step allocates its memory
        again.

    Example:
        >>> release_memory("cpu")

    """
    gc.collect()
    empty_cache = getattr(device_module(device), "empty_cache", None)
    if empty_cache is not None:
        empty_cache()
    trim_heap()


@contextmanager
def frozen_gc() -> Iterator[None]:
    """Makes garbage collections in the ``with`` statement fast: they visit only the objects created inside.

    Note:
        A program with torch and Lightning holds half a million objects, which :func:`release_memory` would visit after
        each failed trial. ``gc.freeze`` of CPython excludes them, after one collection that removes the garbage among
        them.

        Runs one full garbage collection at the start. Does nothing if the user has frozen objects already: the end
        could not tell them apart.

    Example:
        >>> with frozen_gc():
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


@contextmanager
def released_at_end(device: torch.device | str) -> Iterator[None]:
    """At the end of the ``with`` statement an accelerator's allocator holds no memory that is not in use.

    Args:
        device: The device; on the host nothing is done.

    Example:
        >>> with released_at_end("cpu"):
        ...     pass

    """
    try:
        yield
    finally:
        if torch.device(device).type != "cpu":
            release_memory(device)


def trim_heap() -> None:
    """Makes glibc return the free memory that it keeps, so that resident memory is memory in use.

    Does nothing with another C library.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def device_module(device: torch.device | str) -> Any:
    """The module of a device in torch (``torch.cuda`` for ``"cuda:1"``); ``None`` if it has none."""
    try:
        return torch.get_device_module(torch.device(device))
    except RuntimeError:  # such as "meta"
        return None


def synchronize(device: torch.device | str) -> None:
    """Waits until a device has finished its work, so that a time can be measured; does nothing on the host.

    Args:
        device: The device. With an index it is the one that is waited for, whatever the current device is.

    Example:
        >>> synchronize("cpu")

    """
    device = torch.device(device)
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)  # missing in musl
    except OSError:
        return None
    return trim


def _clear_frames(error: BaseException | None, visited: set[int]) -> None:
    """Clears the local variables in the traceback of an error, and of every error connected with it."""
    if error is None or id(error) in visited:
        return
    visited.add(id(error))
    traceback.clear_frames(error.__traceback__)
    members = getattr(error, "exceptions", None)
    for other in (error.__cause__, error.__context__, *(members if isinstance(members, tuple) else ())):
        _clear_frames(other, visited)
