"""How much memory training may take on a device, and how much it took."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch


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


def memory_meter(device: torch.device | str, share: float = 0.9) -> MemoryMeter:
    """The meter for a device, made once before any trial: it takes the memory in use now as its zero.

    The memory of an accelerator, and a bound of the host that kills, may be used up to ``share``: fragments, other
    programs and what a trial did not show need room. A bound of the host that raises may be used whole, since a trial
    that goes beyond it fails and is put back.

    Args:
        device: Where the training runs.
        share: Of what is free there, > 0 and <= 1.

    Returns:
        A :class:`MemoryMeter`.

    Raises:
        ValueError: If ``share`` is out of its range.

    Costs what the device keeps cached, which is given back at the start of each trial. Nothing asks or waits for the
    device within a trial; on the host two threads look at ``/proc``, for a twentieth of a core at most each. The peaks
    that torch and Linux keep for this process (``max_memory_allocated``, ``VmHWM``) start anew and cannot be put back.
    Does not help for the host memory of a training on an accelerator, nor on a device whose module in torch tells
    nothing: the budget is then not known.

    Source: the counters of torch's allocators and of Linux.

    Example:
        >>> meter = memory_meter("cpu")
        >>> with meter.measure() as peak:
        ...     used = torch.ones(64, 2**18)  # 64 MiB
        >>> peak.bytes >= 60 * 2**20 and peak.fits(meter.budget)
        True

    """
    from lightning_hp.memory.accelerator import AcceleratorMeter
    from lightning_hp.memory.host import HostMeter

    if not 0 < share <= 1:
        raise ValueError(f"Expected `share` to be > 0 and <= 1, but got {share!r}.")
    device = torch.device(device)
    return HostMeter(share) if device.type == "cpu" else AcceleratorMeter(device, share)
