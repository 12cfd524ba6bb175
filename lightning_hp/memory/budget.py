"""The two results of a memory meter: what training may allocate, and what a trial allocated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """The memory that training may allocate, on top of what is in use when the meter is created.

    Attributes:
        bytes: Size of the budget, >= 0; ``None`` if it is unknown, so that only an error shows where it ends.
        source: The name of the limit behind it, for messages.
        kills: Whether exceeding it ends or stalls the process instead of raising an error.

    """

    bytes: int | None
    source: str
    kills: bool


@dataclass
class Peak:
    """The most memory that a trial allocated, on top of what was in use when the meter was created.

    The fields are set when the trial ends.

    Attributes:
        bytes: Size of the peak; ``None`` if it is unknown.
        retries: How often the allocator of the device had to empty its cache to continue; 0 where it is not counted.
        ooms: How often the allocator ran out of memory, including errors that were caught.
        sampled: Whether memory was read at intervals only, so that a shorter peak may have been missed.

    """

    bytes: int | None = None
    retries: int = 0
    ooms: int = 0
    sampled: bool = False
