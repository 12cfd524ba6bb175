"""What glibc keeps of freed blocks, in a process of its own, since the settings hold for the whole process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_hp

ROOT = Path(lightning_hp.__file__).parents[1]

pytestmark = pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="another C library than glibc")

# A block beside each large one keeps the heap from shrinking.
CHILD = """
import ctypes
from lightning_hp.memory.limits import status
from lightning_hp.memory.malloc import keep_large_blocks, map_large_blocks, share_one_heap

c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def kept():
    before = status("VmSize")[0]
    large, small = [], []
    for _ in range(20):
        large.append(c.malloc(8 << 20))
        small.append(c.malloc(100_000))
    for block in large:
        c.free(block)
    size = status("VmSize")[0] - before
    for block in small:
        c.free(block)
    return size >> 20

c.free(c.malloc(31 << 20))  # raises glibc's threshold
default = kept()
was_set = map_large_blocks()
mapped = kept()
if was_set:
    keep_large_blocks()
print(default, was_set, mapped, kept(), share_one_heap())
"""


def run(**environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout.split()


def test_large_blocks_are_returned_and_kept_again() -> None:
    default, was_set, mapped, again, shared = run()
    assert (was_set, shared) == ("True", "True")
    assert int(mapped) < 8
    assert int(default) >= 100
    assert int(again) >= 100


def test_a_threshold_of_the_user_stays() -> None:
    default, was_set, mapped, again, shared = run(MALLOC_MMAP_THRESHOLD_="65536", MALLOC_ARENA_MAX="2")
    assert (was_set, shared) == ("False", "False")
    assert max(map(int, (default, mapped, again))) < 8
