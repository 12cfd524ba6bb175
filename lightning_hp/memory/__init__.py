"""How much memory is free, how much a trial takes, and how to continue after memory ran out. Does not use Lightning."""

from lightning_hp.memory.budget import Budget, Peak
from lightning_hp.memory.meter import MemoryMeter, memory_meter
from lightning_hp.memory.oom import is_out_of_memory, is_too_large
from lightning_hp.memory.release import attempt, frozen_gc, release_memory, released_at_end, synchronize

__all__ = [
    "Budget",
    "MemoryMeter",
    "Peak",
    "attempt",
    "frozen_gc",
    "is_out_of_memory",
    "is_too_large",
    "memory_meter",
    "release_memory",
    "released_at_end",
    "synchronize",
]
