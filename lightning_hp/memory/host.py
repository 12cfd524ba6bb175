"""Host memory: what bounds it, and the peak of a trial in the quantity that the tightest bound counts."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psutil

from lightning_hp.memory.budget import Budget, Peak
from lightning_hp.memory.limits import Quantity, host_limits, status
from lightning_hp.memory.release import trim_heap

_LINUX = sys.platform.startswith("linux")

_PERIOD = 0.01

_IDLE_PERIOD = 1.0  # where the kernel keeps the peak

_CHILDREN_PERIOD = 0.1  # loader workers keep what they hold for most of a trial


class HostMeter:
    """A :class:`MemoryMeter` for training on the CPU.

    Resident memory counts against the machine and its control groups, with that of loader workers; its peak is the
    kernel's own where Linux lets a process reset it, else it is sampled. Address space counts against ``ulimit -v``: a
    peak above all earlier ones is the kernel's own, a lower one is sampled. Data counts against ``ulimit -d`` and is
    sampled.

    Args:
        share: Of a bound that kills.

    """

    def __init__(self, share: float) -> None:
        with Sampler(int, _PERIOD):  # glibc gives a first thread 72 MiB of address space, which the next ones inherit
            pass
        trim_heap()  # what malloc keeps free would count as in use, and a trial would then use it unseen
        tightest = min(host_limits(), key=lambda limit: limit.room * (share if limit.kills else 1))
        room = int(tightest.room * share) if tightest.kills else tightest.room
        self.budget = Budget(room, tightest.source, tightest.kills)
        self.quantity = tightest.quantity
        self._read = _READ[self.quantity]
        self._at_start = self._read()
        self._children_at_start = children_resident()

    @contextmanager
    def measure(self) -> Iterator[Peak]:
        """As :meth:`MemoryMeter.measure`."""
        peak = Peak()
        trim_heap()
        of_kernel = _peak_of_kernel(self.quantity)
        own, children = self._own(of_kernel), Sampler(children_resident, _CHILDREN_PERIOD)
        try:
            # Limits on address space and data are for each process by itself.
            with own, children if self.quantity == "resident" else nullcontext():
                yield peak
        finally:
            highest = of_kernel() if of_kernel else None
            peak.sampled = highest is None
            highest = own.largest if highest is None else highest
            workers = max(0, children.largest - self._children_at_start)
            peak.bytes = max(0, highest - self._at_start) + workers

    def _own(self, of_kernel: Callable[[], int | None] | None) -> Sampler:
        return Sampler(self._read, _IDLE_PERIOD if of_kernel and self.quantity == "resident" else _PERIOD)


def resident() -> int:
    """Bytes of this process that lie in memory, as of now."""
    return status("VmRSS")[0] if _LINUX else int(psutil.Process().memory_info().rss)


def children_resident() -> int:
    """Bytes that only children of this process use; what a forked one shares with its parent is the parent's."""
    return sum(map(_unshared, psutil.Process().children(recursive=True)))


def _unshared(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:  # it ended, or may not be looked at
        return 0


def _reset_resident_peak() -> bool:
    """Has Linux start the peak of resident memory anew; ``False`` where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_of_kernel(quantity: Quantity) -> Callable[[], int | None] | None:
    """From now on; the function that is returned gives ``None`` if the kernel's peak is that of an earlier time."""
    if quantity == "resident":
        return (lambda: status("VmHWM")[0]) if _LINUX and _reset_resident_peak() else None
    if quantity == "address space":
        try:
            before = status("VmPeak")[0]
        except KeyError:  # a kernel that is Linux in part, such as gVisor
            return None
        return lambda: peak if (peak := status("VmPeak")[0]) > before else None
    return None


_READ: dict[Quantity, Callable[[], int]] = {
    "resident": resident,
    "address space": lambda: status("VmSize")[0],
    "data": lambda: status("VmData")[0],
}

_LEAST_PAUSE = 20.0  # times what a look takes: a twentieth of a core at most

_MOST_WAITS = 1000


class Sampler:
    """Calls ``read()`` from a thread as long as the ``with`` block lasts, and once at each of its ends.

    Args:
        read: What to look at.
        period: Seconds from one look to the next; more if a look takes long.

    """

    def __init__(self, read: Callable[[], int], period: float) -> None:
        self.read = read
        self.period = period
        self.largest = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lightning_hp-memory", daemon=True)

    def __enter__(self) -> Sampler:
        self.largest = self.read()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        self._leave()
        self.largest = max(self.largest, self.read())

    def _leave(self) -> None:
        """Waits for the thread of the system too: while it ends, a next one would get address space of its own."""
        of_system = Path(f"/proc/self/task/{self._thread.native_id}")
        for _ in range(_MOST_WAITS):
            if not of_system.exists():
                return
            time.sleep(0.001)

    def _run(self) -> None:
        pause = self.period
        while not self._done.wait(pause):
            start = time.perf_counter()
            self.largest = max(self.largest, self.read())
            pause = max(self.period, _LEAST_PAUSE * (time.perf_counter() - start))
