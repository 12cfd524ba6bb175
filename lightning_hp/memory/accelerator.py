"""Measures the memory of an accelerator with the counters of its allocator in torch.

CUDA, ROCm, XPU and MPS, and every other device whose module in torch names its functions like one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lightning_hp.memory.budget import Budget, Peak
from lightning_hp.memory.release import device_module


class AcceleratorMeter:
    """A :class:`~lightning_hp.memory.MemoryMeter` for a device with a module in torch.

    The counters are read before and after a trial. The peak is the memory that the allocator reserved, which includes
    fragmentation, plus the memory that others took on the device meanwhile: libraries that allocate by themselves,
    other processes. MPS records no peak. There it is the memory that the driver holds after the trial: the cache was
    emptied before, so it can only have grown.

    Args:
        device: The device.
        share: Share of the free memory in the budget; the rest is left for fragmentation and for what a trial does not
            show.

    """

    def __init__(self, device: torch.device, share: float) -> None:
        self.device = device
        self._module = device_module(device)
        self._empty_cache()
        self._in_use = self._query_first("memory_allocated", "current_allocated_memory")
        self._reachable = self._query_reachable()
        self.budget = self._budget(share)

    @contextmanager
    def measure(self) -> Iterator[Peak]:
        """As :meth:`MemoryMeter.measure <lightning_hp.memory.MemoryMeter.measure>`."""
        peak = Peak()
        self._empty_cache()  # else blocks kept from a larger trial would count as memory of this one
        has_peak = hasattr(self._module, "reset_peak_memory_stats")
        if has_peak:
            self._query("reset_peak_memory_stats")
        retries, ooms = self._failures()
        try:
            yield peak
        finally:
            retries_after, ooms_after = self._failures()
            peak.retries, peak.ooms = retries_after - retries, ooms_after - ooms
            highest = self._query_first("max_memory_reserved", "max_memory_allocated") if has_peak else None
            if highest is None:
                highest, peak.sampled = self._query("driver_allocated_memory"), True
            if highest is not None and self._in_use is not None:
                peak.bytes = max(0, highest - self._in_use) + self._taken_by_others()

    def isolate(self) -> bool:
        """Does nothing: each trial starts with an empty cache."""
        return False

    def end_isolation(self) -> None:
        """Does nothing."""

    def _budget(self, share: float) -> Budget:
        """``share`` of the tightest known limit, less the memory in use."""
        limits: list[tuple[int, str]] = []
        kills = self.device.type == "mps"
        if self._in_use is not None and self._reachable is not None:
            kills = bool(getattr(self._query("get_device_properties"), "is_integrated", False))
            limits.append((self._reachable, f"the free memory of {self.device}"))
            fraction = self._query("get_per_process_memory_fraction")
            if fraction is not None:
                total = self._query("mem_get_info")[1]
                limits.append((int(fraction * total), f"this process's share of {self.device}"))
        recommended = self._query("recommended_max_memory")
        if self._in_use is not None and recommended is not None:
            limits.append((recommended, f"the memory recommended for {self.device}"))
        if not limits:
            return Budget(None, f"unknown, since torch does not report it for {self.device}", kills=False)
        limit, source = min(limits)
        return Budget(max(0, int((limit - self._in_use) * share)), source, kills)

    def _failures(self) -> tuple[int, int]:
        """How often the allocator emptied its cache to continue, and how often it ran out of memory."""
        stats = self._query("memory_stats") or {}
        return stats.get("num_alloc_retries", 0), stats.get("num_ooms", 0)

    def _query_reachable(self) -> int | None:
        """The memory that the allocator of this process could hold: what is free and what it has reserved."""
        free, reserved = self._query("mem_get_info"), self._query("memory_reserved")
        return None if free is None or reserved is None else int(free[0] + reserved)

    def _taken_by_others(self) -> int:
        """The memory that others allocated since the meter was created."""
        now = self._query_reachable()
        return 0 if now is None or self._reachable is None else max(0, self._reachable - now)

    def _empty_cache(self) -> None:
        empty_cache = getattr(self._module, "empty_cache", None)
        if empty_cache is not None:
            empty_cache()

    def _query_first(self, *names: str) -> Any:
        """The value of the first of these functions that is not ``None``."""
        return next((value for value in map(self._query, names) if value is not None), None)

    def _query(self, name: str) -> Any:
        """The value of a function of the module; ``None`` if it does not exist or the driver does not support it."""
        function = getattr(self._module, name, None)
        if function is None:
            return None
        try:
            return function() if self.device.type == "mps" else function(self.device)
        except (NotImplementedError, RuntimeError):
            return None
