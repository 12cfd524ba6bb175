"""Measures the memory of the host: the budget from the tightest limit, and the peak in the quantity it limits."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psutil

from lightning_hp.memory.budget import Budget, Peak
from lightning_hp.memory.limits import HostLimit, Quantity, host_limits, status
from lightning_hp.memory.malloc import keep_large_blocks, map_large_blocks, share_one_heap
from lightning_hp.memory.release import trim_heap

_LINUX = sys.platform.startswith("linux")

# Seconds between two readings of a sampler.
_PERIOD = 0.01
_PERIOD_WITH_KERNEL_PEAK = 1.0  # the kernel records the peak, so the samples are not needed
_PERIOD_OF_CHILDREN = 0.1  # loader workers hold their memory for most of a trial


class HostMeter:
    """A :class:`~lightning_hp.memory.MemoryMeter` for training on the CPU.

    What is measured depends on the tightest limit:

    - Resident memory, with that of loader workers, for the memory of the machine and its control groups. The peak is
      the kernel's own where Linux lets a process reset it, otherwise it is sampled.
    - Address space, for ``ulimit -v``. A peak above all earlier ones is the kernel's own, a lower one is sampled.
    - Data, for ``ulimit -d``. The peak is sampled.

    Args:
        share: Share of a limit that ends the process in the budget; other limits count in full.

    """

    def __init__(self, share: float) -> None:
        if _tightest(share)[1].quantity == "address space":
            share_one_heap()
        # The stack of the first thread, which later threads reuse, is address space too, and without one heap for all
        # threads another 64 MiB.
        with Sampler(int, _PERIOD):
            pass
        trim_heap()  # else free memory that malloc keeps counts as in use, and a trial could use it unseen
        budget, tightest = _tightest(share)
        self.budget = Budget(budget, tightest.source, tightest.kills)
        self.quantity = tightest.quantity
        self._read = _reader(self.quantity)
        self._at_start = self._read()
        self._children_at_start = _children_resident()
        self._is_isolated = self._maps_blocks = False

    @contextmanager
    def measure(self) -> Iterator[Peak]:
        """As :meth:`MemoryMeter.measure <lightning_hp.memory.MemoryMeter.measure>`."""
        peak = Peak()
        if self._is_isolated:
            gc.collect()  # reference cycles of earlier trials
        trim_heap()
        kernel_peak = _start_kernel_peak(self.quantity)
        is_certain = kernel_peak is not None and self.quantity == "resident"
        own = Sampler(self._read, _PERIOD_WITH_KERNEL_PEAK if is_certain else _PERIOD)
        children = Sampler(_children_resident, _PERIOD_OF_CHILDREN)
        try:
            # The limits on address space and data hold for each process by itself.
            with own, children if self.quantity == "resident" else nullcontext():
                yield peak
        finally:
            highest = kernel_peak() if kernel_peak else None
            peak.sampled = highest is None
            highest = own.largest if highest is None else highest
            workers = max(0, children.largest - self._children_at_start)
            peak.bytes = max(0, highest - self._at_start) + workers

    def isolate(self) -> bool:
        """Keeps large blocks out of malloc's heap, which holds on to the memory of earlier trials."""
        self._is_isolated = True
        self._maps_blocks = map_large_blocks()
        trim_heap()
        return True

    def end_isolation(self) -> None:
        """Lets malloc keep large blocks again."""
        if self._maps_blocks:
            keep_large_blocks()


def _tightest(share: float) -> tuple[int, HostLimit]:
    """The budget that the tightest limit leaves, and this limit."""
    limits = [(int(limit.free_bytes * share) if limit.kills else limit.free_bytes, limit) for limit in host_limits()]
    return min(limits, key=lambda pair: pair[0])


def _reader(quantity: Quantity) -> Callable[[], int]:
    """Returns a function that reads how much of a quantity this process uses, in bytes."""
    if quantity == "data":
        return lambda: status("VmData")[0]  # psutil adds the stack, which the limit does not count
    process = psutil.Process()  # once: a reading then takes 7 us, so a sampler can read often
    if quantity == "address space":
        return lambda: int(process.memory_info().vms)
    return lambda: int(process.memory_info().rss)


def _children_resident() -> int:
    """Resident memory in bytes that only child processes use; pages that a fork shares count for its parent."""
    return sum(map(_unique_set_size, psutil.Process().children(recursive=True)))


def _unique_set_size(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:  # it ended, or this process may not read it
        return 0


def _start_kernel_peak(quantity: Quantity) -> Callable[[], int | None] | None:
    """Starts to use the peak that the kernel records, if it records one.

    Returns:
        A function that returns the peak since this call, or ``None`` if the recorded one is older; ``None`` where the
        kernel records no peak of this quantity.

    """
    if quantity == "resident":
        return (lambda: status("VmHWM")[0]) if _LINUX and _reset_resident_peak() else None
    if quantity == "address space":
        try:
            before = status("VmPeak")[0]
        except KeyError:  # an incomplete implementation of Linux, such as gVisor
            return None
        return lambda: peak if (peak := status("VmPeak")[0]) > before else None
    return None


def _reset_resident_peak() -> bool:
    """Resets the peak of resident memory that Linux records; ``False`` where that is not possible."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


# The stack of the thread of a sampler; by default it is 8 MiB of address space.
_STACK_BYTES = 1 << 19

# A sampler pauses for at least this many times the duration of a reading: it uses a twentieth of a core at most.
_PAUSE_PER_READING = 20.0

# Milliseconds to wait for the end of the sampler's thread in the kernel.
_MAX_WAITS = 1000


class Sampler:
    """Calls ``read()`` repeatedly from a thread inside a ``with`` statement, and once at its start and end.

    Args:
        read: Returns a value.
        period: Seconds between two calls; longer if a call takes long.

    Attributes:
        largest: The largest value that was read.

    """

    def __init__(self, read: Callable[[], int], period: float) -> None:
        self.read = read
        self.period = period
        self.largest = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lightning_hp-memory", daemon=True)

    def __enter__(self) -> Sampler:
        self.largest = self.read()
        before = threading.stack_size(_STACK_BYTES)
        try:
            self._thread.start()
        finally:
            threading.stack_size(before)
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        self._wait_for_kernel_thread()
        self.largest = max(self.largest, self.read())

    def _run(self) -> None:
        pause = self.period
        while not self._done.wait(pause):
            start = time.perf_counter()
            self.largest = max(self.largest, self.read())
            pause = max(self.period, _PAUSE_PER_READING * (time.perf_counter() - start))

    def _wait_for_kernel_thread(self) -> None:
        """Waits until the kernel has ended the thread: a thread that starts earlier gets new address space."""
        kernel_thread = Path(f"/proc/self/task/{self._thread.native_id}")
        for _ in range(_MAX_WAITS):
            if not kernel_thread.exists():
                return
            time.sleep(0.001)
