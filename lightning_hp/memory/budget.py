"""What a trial may take, and what it took."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Budget:
    """The memory that training may take, above what is in use at the start.

    Attributes:
        bytes: How much, >= 0; ``None`` if it is not known, and only an error tells.
        source: What bounds it, in words.
        kills: Whether exceeding it ends or stalls the process instead of raising an error.

    """

    bytes: int | None
    source: str
    kills: bool

    def may_run(self, expected: float | None) -> bool:
        """Whether a trial that is expected to take so many bytes can be run: an error is survived, a kill is not."""
        return not self.kills or self.bytes is None or expected is None or expected <= self.bytes


@dataclass
class Peak:
    """The most memory that a trial took, above what was in use at the start; filled in when the trial ends.

    Attributes:
        bytes: How much; ``None`` if it is not known.
        retries: How often the device's allocator had to throw its cache away to go on; 0 where it does not count.
        ooms: How often it ran out, whether or not somebody caught that.
        sampled: Whether it was looked at every few milliseconds only, so that a shorter peak may have been missed.

    """

    bytes: int | None = None
    retries: int = 0
    ooms: int = 0
    sampled: bool = False

    def fits(self, budget: Budget) -> bool:
        """Whether it stayed within the budget, and the allocator had room: one that retries runs out soon after."""
        within = self.bytes is None or budget.bytes is None or self.bytes <= budget.bytes
        return within and not self.retries and not self.ooms


class MemoryMeter(Protocol):
    """Measures trials on one device against what was in use when it was made."""

    @property
    def budget(self) -> Budget:
        """What training may take, as of when the meter was made."""

    def measure(self) -> AbstractContextManager[Peak]:
        """Measures what runs within; the result can be read after it, also if an error ended it."""
