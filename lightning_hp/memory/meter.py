"""How much memory training may take on a device, and how much it took."""

from __future__ import annotations

import torch

from lightning_hp.memory.accelerator import AcceleratorMeter
from lightning_hp.memory.budget import MemoryMeter
from lightning_hp.memory.host import HostMeter


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
    if not 0 < share <= 1:
        raise ValueError(f"Expected `share` to be > 0 and <= 1, but got {share!r}.")
    device = torch.device(device)
    return HostMeter(share) if device.type == "cpu" else AcceleratorMeter(device, share)
