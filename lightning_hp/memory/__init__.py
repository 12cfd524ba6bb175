"""How much memory there is, how much a trial took, and what to do when it ran out. Knows nothing of Lightning."""

from lightning_hp.memory.budget import Budget, MemoryMeter, Peak
from lightning_hp.memory.meter import memory_meter
from lightning_hp.memory.oom import is_out_of_memory
from lightning_hp.memory.release import attempt, release_memory, swift_collections

__all__ = [
    "Budget",
    "MemoryMeter",
    "Peak",
    "attempt",
    "is_out_of_memory",
    "memory_meter",
    "release_memory",
    "swift_collections",
]
