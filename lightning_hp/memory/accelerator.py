"""Memory of an accelerator, by the counters of its allocator: CUDA, ROCm, XPU, MPS, and all that name them alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lightning_hp.memory.budget import Budget, Peak
from lightning_hp.memory.release import device_module


class AcceleratorMeter:
    """A :class:`MemoryMeter` for a device with a module in torch, read at the ends of a trial only.

    The peak is what the allocator reserved, not what it handed out: the rest is lost to fragments. What others take on
    the device meanwhile counts too: libraries that allocate by themselves, other processes. Where there is no peak, as
    on MPS, it is what the driver holds at the end, since a cache that was emptied before only grows.

    Args:
        device: The device.
        share: Of what is free: the rest is for fragments and for what a trial did not show.

    """

    def __init__(self, device: torch.device, share: float) -> None:
        self.device = device
        self._module = device_module(device)
        self._empty_cache()
        self._in_use = self._first("memory_allocated", "current_allocated_memory")
        self._available = self._within_reach()
        self.budget = self._budget(share)

    @contextmanager
    def measure(self) -> Iterator[Peak]:
        """As :meth:`MemoryMeter.measure`."""
        peak = Peak()
        self._empty_cache()  # blocks kept from a larger trial would pass for memory of this one
        has_peak = hasattr(self._module, "reset_peak_memory_stats")
        if has_peak:
            self._ask("reset_peak_memory_stats")
        before = self._counts()
        try:
            yield peak
        finally:
            after = self._counts()
            peak.retries, peak.ooms = after[0] - before[0], after[1] - before[1]
            highest = self._first("max_memory_reserved", "max_memory_allocated") if has_peak else None
            if highest is None:
                highest, peak.sampled = self._ask("driver_allocated_memory"), True
            if highest is not None and self._in_use is not None:
                peak.bytes = max(0, highest - self._in_use) + self._taken_by_others()

    def _budget(self, share: float) -> Budget:
        """What is free on the device, and what this process holds without using it."""
        known = []
        kills = self.device.type == "mps"
        if self._in_use is not None and self._available is not None:
            kills = bool(getattr(self._ask("get_device_properties"), "is_integrated", False))
            known.append((self._available - self._in_use, f"the free memory of {self.device}"))
            fraction = self._ask("get_per_process_memory_fraction")
            if fraction is not None:
                total = self._ask("mem_get_info")[1]
                known.append((int(fraction * total) - self._in_use, f"this process's share of {self.device}"))
        recommended = self._ask("recommended_max_memory")
        if self._in_use is not None and recommended is not None:
            known.append((recommended - self._in_use, f"the memory recommended for {self.device}"))
        if not known:
            return Budget(None, f"not known: torch does not tell for {self.device}", kills=False)
        room, source = min(known)
        return Budget(max(0, int(room * share)), source, kills)

    def _counts(self) -> tuple[int, int]:
        stats = self._ask("memory_stats") or {}
        return stats.get("num_alloc_retries", 0), stats.get("num_ooms", 0)

    def _within_reach(self) -> int | None:
        """All that this process's allocator could hold: what is free and what it has."""
        free, reserved = self._ask("mem_get_info"), self._ask("memory_reserved")
        return None if free is None or reserved is None else int(free[0] + reserved)

    def _taken_by_others(self) -> int:
        now = self._within_reach()
        return 0 if now is None or self._available is None else max(0, self._available - now)

    def _empty_cache(self) -> None:
        empty_cache = getattr(self._module, "empty_cache", None)
        if empty_cache is not None:
            empty_cache()

    def _first(self, *names: str) -> Any:
        return next((value for value in map(self._ask, names) if value is not None), None)

    def _ask(self, name: str) -> Any:
        """What the module's function says; ``None`` if it has none, or its driver cannot tell."""
        function = getattr(self._module, name, None)
        if function is None:
            return None
        try:
            return function() if self.device.type == "mps" else function(self.device)
        except (NotImplementedError, RuntimeError):
            return None
