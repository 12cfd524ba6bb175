"""Settings of glibc's malloc under which the memory of a process follows what is allocated.

By default glibc places blocks of up to 32 MiB in a heap: the size from which a block gets a mapping of its own rises
with the blocks that were freed. The heap cannot shrink below its highest block in use, so the peak of a trial depends
on the trials before it, and what one size has left behind is missing for the next. A block with a mapping of its own is
returned when it is freed. This costs time: its pages are mapped again each time.

The settings hold for the whole process, and do nothing with another C library.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable

from lightning_hp.functional.batch_size.memory import MIB

# malloc.h of glibc; see mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8

# Where glibc starts by itself. With 1 MiB the heap of a network of forty small layers was twice as large as its blocks.
_OWN_MAPPING = MIB // 8
_LARGEST_THRESHOLD = 32 * MIB  # glibc raises it up to here by itself, and trims at twice its value


def map_large_blocks() -> bool:
    """Gives every block above 128 KiB a mapping of its own; returns whether that was set.

    A threshold that the user has chosen in the environment stays.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or "mmap_threshold" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    return _set(_MMAP_THRESHOLD, _OWN_MAPPING)


def keep_large_blocks() -> None:
    """Undoes :func:`map_large_blocks`: the thresholds are those that glibc reaches by itself."""
    _set(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
    _set(_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)


def share_one_heap() -> bool:
    """Lets new threads use the heap that exists; each would reserve 64 MiB of address space for one of its own."""
    return "MALLOC_ARENA_MAX" not in os.environ and _set(_ARENA_MAX, 1)


def _set(parameter: int, value: int) -> bool:
    mallopt = _mallopt()
    return mallopt is not None and bool(mallopt(parameter, value))


@functools.cache
def _mallopt() -> Callable[[int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)  # missing in musl
    except OSError:
        return None
    return function
