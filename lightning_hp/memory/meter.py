"""Creates the memory meter of a device, and defines what every meter offers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch

from lightning_hp.functional.checks import check_number
from lightning_hp.memory.accelerator import AcceleratorMeter
from lightning_hp.memory.budget import Budget, Peak
from lightning_hp.memory.host import HostMeter


class MemoryMeter(Protocol):
    """Measures trials on one device, relative to the memory in use when the meter was created."""

    @property
    def budget(self) -> Budget:
        """What training may allocate, as of the creation of the meter."""

    def measure(self) -> AbstractContextManager[Peak]:
        """Measures the body of the ``with`` statement; read the result after it, also if it raised an error."""

    def isolate(self) -> bool:
        """Makes the peak of a trial independent of earlier ones, for as long as the process runs; may cost speed.

        Returns:
            Whether the peaks until now depended on earlier trials.

        """

    def end_isolation(self) -> None:
        """Gives back the speed that :meth:`isolate` has cost."""


def memory_meter(device: torch.device | str, share: float = 0.9) -> MemoryMeter:
    """Creates the meter of a device, before the first trial: the memory in use now counts as zero.

    Args:
        device: Where the training runs.
        share: Share of the free memory, > 0 and <= 1.

    Returns:
        A :class:`MemoryMeter`.

    Raises:
        TypeError: If ``share`` is not a number.
        ValueError: If ``share`` is out of range.

    Note:
        The budget is ``share`` of the free memory of an accelerator, or of a host limit that ends the process; the rest
        is left for fragmentation, for other programs and for what a trial does not show. A host limit that raises an
        error may be used completely, since a trial that exceeds it fails and is undone.

        Each trial starts with an empty cache of the device. The device is neither read nor synchronized during a trial.
        On the host two threads read ``/proc``, each for at most a twentieth of a core. Under a limit on the address
        space, threads that start later share one heap of malloc. The peaks that torch and Linux
        record for this process (``max_memory_allocated``, ``VmHWM``) are reset and cannot be restored.

        Training on an accelerator also needs host memory, which is not measured. On a device whose module in torch
        reports no memory, the budget is unknown.

    Example:
        >>> meter = memory_meter("cpu")
        >>> with meter.measure() as peak:
        ...     used = torch.ones(64, 2**18)  # 64 MiB
        >>> 60 * 2**20 <= peak.bytes <= meter.budget.bytes
        True

    """
    share = check_number("share", share, above=0, maximum=1)
    device = torch.device(device)
    return HostMeter(share) if device.type == "cpu" else AcceleratorMeter(device, share)
