"""The meter of an accelerator, with a simulated caching allocator and on a real device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_hp.memory import Budget, MemoryMeter, Peak, accelerator, attempt, memory_meter, release

MIB = 2**20


class FakeDevice:
    """The memory functions of ``torch.cuda``: blocks of 2 MiB, which stay in a cache until memory runs out."""

    BLOCK = 2

    def __init__(self, total: int = 1000, others: int = 100) -> None:
        self.total, self.others = total, others
        self.blocks: dict[int, int] = {}  # handle: MiB in use
        self.cached: list[int] = []
        self.retries = self.ooms = 0
        self.peak_allocated = self.peak_reserved = 0
        self.fraction = 1.0
        self.calls: list[str] = []

    def allocate(self, mib: int) -> int:
        size = -(-mib // self.BLOCK) * self.BLOCK
        if size in self.cached:
            self.cached.remove(size)
        elif size > self._free():
            self.retries += 1
            self.cached.clear()
            if size > self._free():
                self.ooms += 1
                raise torch.OutOfMemoryError("CUDA out of memory.")
        handle = max(self.blocks, default=0) + 1
        self.blocks[handle] = size
        self.peak_allocated = max(self.peak_allocated, self._in_use())
        self.peak_reserved = max(self.peak_reserved, self._in_use() + sum(self.cached))
        return handle

    def free(self, handle: int) -> None:
        self.cached.append(self.blocks.pop(handle))

    def _in_use(self) -> int:
        return sum(self.blocks.values())

    def _free(self) -> int:
        held = self._in_use() + sum(self.cached)
        return min(self.total - self.others, int(self.fraction * self.total)) - held

    def memory_allocated(self, device: torch.device) -> int:
        return self._in_use() * MIB

    def memory_reserved(self, device: torch.device) -> int:
        return (self._in_use() + sum(self.cached)) * MIB

    def max_memory_allocated(self, device: torch.device) -> int:
        return self.peak_allocated * MIB

    def max_memory_reserved(self, device: torch.device) -> int:
        return self.peak_reserved * MIB

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.calls.append("reset")
        self.peak_allocated = self._in_use()
        self.peak_reserved = self._in_use() + sum(self.cached)

    def memory_stats(self, device: torch.device) -> dict[str, int]:
        return {"num_alloc_retries": self.retries, "num_ooms": self.ooms}

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return (self.total - self.others) * MIB - self.memory_reserved(device), self.total * MIB

    def get_per_process_memory_fraction(self, device: torch.device) -> float:
        return self.fraction

    def get_device_properties(self, device: torch.device) -> Any:
        return SimpleNamespace(is_integrated=0)

    def empty_cache(self) -> None:
        self.cached.clear()

    def synchronize(self, device: object = None) -> None:
        raise AssertionError("a meter does not synchronize")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    device = FakeDevice()
    use(monkeypatch, device)
    return device


def use(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    monkeypatch.setattr(accelerator, "device_module", lambda device: module)
    monkeypatch.setattr(release, "device_module", lambda device: module)


def fits(peak: Peak, budget: Budget) -> bool:
    """Whether a trial stayed within the budget and the allocator did not have to empty its cache."""
    return peak.bytes <= budget.bytes and peak.retries == peak.ooms == 0


def a_meter(share: float = 0.9) -> MemoryMeter:
    return memory_meter("cuda:0", share)


def test_the_budget_is_all_that_can_be_allocated(fake: FakeDevice) -> None:
    fake.allocate(50)  # the model
    fake.free(fake.allocate(300))  # kept by the allocator, and so not free on the device
    budget = a_meter(share=1.0).budget
    assert budget == Budget(850 * MIB, "the free memory of cuda:0", False)
    fake.free(fake.allocate(850))
    with pytest.raises(torch.OutOfMemoryError):
        fake.allocate(852)


def test_a_share_that_was_set_for_the_process_bounds_it(fake: FakeDevice) -> None:
    fake.allocate(50)
    fake.fraction = 0.5
    assert a_meter(share=1.0).budget == Budget(450 * MIB, "this process's share of cuda:0", False)
    fake.free(fake.allocate(450))
    with pytest.raises(torch.OutOfMemoryError):
        fake.allocate(452)


def test_a_share_of_what_is_free_is_left_for_fragments(fake: FakeDevice) -> None:
    fake.allocate(100)
    assert a_meter(share=0.9).budget == Budget(720 * MIB, "the free memory of cuda:0", False)


def test_memory_that_is_shared_with_the_host_kills(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "get_device_properties", lambda device: SimpleNamespace(is_integrated=1))
    assert a_meter(share=0.5).budget == Budget(450 * MIB, "the free memory of cuda:0", True)


def test_the_peak_is_that_of_this_trial_and_includes_fragmentation(fake: FakeDevice) -> None:
    fake.allocate(50)
    meter = a_meter()
    with meter.measure() as peak:
        handles = [fake.allocate(100), fake.allocate(200)]
        for handle in handles:
            fake.free(handle)
        fake.free(fake.allocate(150))  # fits no cached block: 450 are reserved, although at most 300 were in use
    assert (peak.bytes, peak.retries, peak.ooms, peak.sampled) == (450 * MIB, 0, 0, False)
    assert fits(peak, meter.budget)
    with meter.measure() as peak:  # neither the peak nor the cache of the trial before counts
        fake.free(fake.allocate(20))
    assert peak.bytes == 20 * MIB


def test_retries_of_the_allocator_are_counted(fake: FakeDevice) -> None:
    meter = a_meter()
    with meter.measure() as peak:
        fake.free(fake.allocate(500))
        fake.free(fake.allocate(600))
    assert (peak.retries, peak.ooms) == (1, 0)
    assert not fits(peak, meter.budget)
    with meter.measure() as peak:
        fake.free(fake.allocate(600))
    assert peak.retries == 0
    assert fits(peak, meter.budget)


def test_an_error_that_the_user_caught_is_counted(fake: FakeDevice) -> None:
    meter = a_meter()
    with meter.measure() as peak:
        assert attempt(lambda: fake.allocate(2000), "cuda:0") == (None, "torch.OutOfMemoryError: CUDA out of memory.")
    assert peak.ooms == 1
    assert not fits(peak, meter.budget)


def test_memory_that_others_take_during_a_trial_counts(fake: FakeDevice) -> None:
    meter = a_meter()
    fake.others += 40  # a library's own handles, another process
    for _ in range(2):  # it stays allocated, so it counts in the next trial too
        with meter.measure() as peak:
            fake.free(fake.allocate(100))
        assert peak.bytes == 140 * MIB
    fake.others -= 60
    with meter.measure() as peak:
        fake.free(fake.allocate(100))
    assert peak.bytes == 100 * MIB


def test_the_device_is_not_read_during_a_trial(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = a_meter()
    with meter.measure(), monkeypatch.context() as within:
        for name in [name for name in vars(FakeDevice) if not name.startswith("_")]:
            within.setattr(FakeDevice, name, lambda *args: pytest.fail("read during a trial"))
    assert fake.calls == ["reset"]


def test_mps_is_measured_by_the_memory_of_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"in use": 50, "driver": 80}
    use(
        monkeypatch,
        SimpleNamespace(
            current_allocated_memory=lambda: held["in use"] * MIB,
            driver_allocated_memory=lambda: held["driver"] * MIB,
            recommended_max_memory=lambda: 1000 * MIB,
            empty_cache=lambda: held.update(driver=held["in use"]),
        ),
    )
    meter = memory_meter("mps")
    assert meter.budget == Budget(int(0.9 * 950 * MIB), "the memory recommended for mps", True)
    with meter.measure() as peak:
        held["driver"] = 350
    assert (peak.bytes, peak.sampled) == (300 * MIB, True)
    with meter.measure() as peak:
        held["driver"] = 70
    assert peak.bytes == 20 * MIB


def _raises(*args: object) -> int:
    raise RuntimeError("The device does not support querying the available free memory.")


@pytest.mark.parametrize(
    "module",
    [
        None,
        SimpleNamespace(),
        SimpleNamespace(memory_allocated=lambda device: 5),
        SimpleNamespace(memory_allocated=lambda device: 5, memory_reserved=lambda device: 6, mem_get_info=_raises),
    ],
)
def test_a_device_that_reports_no_memory_has_no_budget(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, module)
    meter = memory_meter("xpu:1")
    assert meter.budget == Budget(None, "unknown, since torch does not report it for xpu:1", False)
    with meter.measure() as peak:
        pass
    assert peak == Peak(None, sampled=True)


def test_a_module_with_peaks_only_still_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as MTIA: it reports peaks, but neither free nor reserved memory."""
    use(
        monkeypatch,
        SimpleNamespace(
            memory_allocated=lambda device: 5 * MIB,
            max_memory_allocated=lambda device: 25 * MIB,
            reset_peak_memory_stats=lambda device: None,
        ),
    )
    meter = memory_meter("mtia:0")
    with meter.measure() as peak:
        pass
    assert (meter.budget.bytes, peak.bytes) == (None, 20 * MIB)


@pytest.mark.gpu
def test_on_a_real_device_the_budget_can_be_allocated_and_the_peak_is_what_was_allocated() -> None:
    torch.empty(1, device="cuda")
    meter = memory_meter("cuda")
    assert meter.budget.bytes is not None
    with meter.measure() as peak:
        torch.empty(256 * MIB, dtype=torch.uint8, device="cuda")
    assert peak.bytes == pytest.approx(256 * MIB, abs=32 * MIB)
    assert peak.retries == peak.ooms == 0
    slack = 64 * MIB  # of the driver
    with meter.measure() as peak:
        value, oom = attempt(lambda: torch.empty(meter.budget.bytes - slack, dtype=torch.uint8, device="cuda"), "cuda")
        del value
    assert oom is None
    assert fits(peak, meter.budget)
    with meter.measure() as peak:
        _, oom = attempt(lambda: torch.empty(meter.budget.bytes + slack, dtype=torch.uint8, device="cuda"), "cuda")
    assert oom is not None
    assert peak.ooms >= 1
    assert not fits(peak, meter.budget)
