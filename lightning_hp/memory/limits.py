"""What bounds the host memory of this process: control groups, resource limits, the machine."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from lightning_hp.memory.cgroups import cgroup_limits

Quantity = Literal["resident", "address space", "data"]

_RESOURCES: tuple[tuple[str, str, str, Quantity], ...] = (
    ("RLIMIT_AS", "ulimit -v", "VmSize", "address space"),
    ("RLIMIT_DATA", "ulimit -d", "VmData", "data"),
)


@dataclass(frozen=True)
class HostLimit:
    """One bound on the memory of this process.

    Attributes:
        room: Bytes that may still be taken, >= 0.
        source: Its name in words.
        kills: Whether taking more ends the process, or stalls it; else an allocation fails.
        quantity: What it counts.

    """

    room: int
    source: str
    kills: bool
    quantity: Quantity = "resident"


def host_limits() -> list[HostLimit]:
    """Every bound on this process as of now; the machine's own memory is always among them.

    Costs a millisecond. Does not help against the size of ``/dev/shm``, through which loader workers send their
    batches; swap is not counted as room.

    Source: the kernel's documentation of control groups, ``getrlimit`` and ``proc``.

    Example:
        >>> "the free memory of the machine" in [limit.source for limit in host_limits()]
        True

    """
    machine = HostLimit(int(psutil.virtual_memory().available), "the free memory of the machine", kills=True)
    groups = [HostLimit(room, source, kills=True) for room, source in cgroup_limits()]
    return [machine, *groups, *_resource_limits()]


def status(*names: str) -> list[int]:
    """Fields of ``/proc/self/status`` in bytes, such as ``"VmHWM"``; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.startswith("Vm"))
    return [int(fields[name].split()[0]) * 1024 for name in names]


def _resource_limits() -> list[HostLimit]:
    if not sys.platform.startswith("linux"):  # others do not hold a process to them, or have none
        return []
    import resource

    found = []
    for name, option, field, quantity in _RESOURCES:
        soft, _ = resource.getrlimit(getattr(resource, name))
        if soft != resource.RLIM_INFINITY:
            room = max(0, soft - status(field)[0])
            found.append(HostLimit(room, f"{name} ({option})", kills=False, quantity=quantity))
    return found
