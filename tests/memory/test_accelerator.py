"""The meter of an accelerator on a simulated caching allocator; the real one where there is one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_hp.memory import Budget, MemoryMeter, accelerator, attempt, memory_meter, release

MIB = 2**20


class FakeDevice:
    """The part of ``torch.cuda`` that deals in memory: 2 MiB blocks, kept when freed, thrown away when it is tight."""

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
        raise AssertionError("a meter waits for nothing")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    device = FakeDevice()
    use(monkeypatch, device)
    return device


def use(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    monkeypatch.setattr(accelerator, "device_module", lambda device: module)
    monkeypatch.setattr(release, "device_module", lambda device: module)


def a_meter(share: float = 0.9) -> MemoryMeter:
    return memory_meter("cuda:0", share)


def test_the_budget_is_what_can_be_allocated_and_not_a_block_more(fake: FakeDevice) -> None:
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


def test_memory_that_is_the_hosts_too_kills(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "get_device_properties", lambda device: SimpleNamespace(is_integrated=1))
    assert a_meter(share=0.5).budget == Budget(450 * MIB, "the free memory of cuda:0", True)


def test_the_peak_is_of_this_trial_above_what_was_in_use_and_holds_fragments(fake: FakeDevice) -> None:
    fake.allocate(50)
    meter = a_meter()
    with meter.measure() as peak:
        handles = [fake.allocate(100), fake.allocate(200)]
        for handle in handles:
            fake.free(handle)
        fake.free(fake.allocate(150))  # fits no block that is kept: 450 are reserved, though 300 at most were in use
    assert (peak.bytes, peak.retries, peak.ooms, peak.sampled) == (450 * MIB, 0, 0, False)
    assert peak.fits(meter.budget)
    with meter.measure() as peak:  # neither the peak nor the cache of the trial before counts
        fake.free(fake.allocate(20))
    assert peak.bytes == 20 * MIB


def test_retries_say_that_it_did_not_fit_comfortably(fake: FakeDevice) -> None:
    meter = a_meter()
    with meter.measure() as peak:
        fake.free(fake.allocate(500))
        fake.free(fake.allocate(600))
    assert (peak.retries, peak.ooms) == (1, 0)
    assert not peak.fits(meter.budget)
    with meter.measure() as peak:
        fake.free(fake.allocate(600))
    assert peak.retries == 0
    assert peak.fits(meter.budget)


def test_an_error_that_the_user_caught_is_counted(fake: FakeDevice) -> None:
    meter = a_meter()
    with meter.measure() as peak:
        assert attempt(lambda: fake.allocate(2000), "cuda:0") == (None, "torch.OutOfMemoryError: CUDA out of memory.")
    assert peak.ooms == 1
    assert not peak.fits(meter.budget)


def test_what_others_take_meanwhile_counts(fake: FakeDevice) -> None:
    meter = a_meter()
    fake.others += 40  # a library's own handles, another process
    for _ in range(2):  # it stays, so it counts in the next trial too
        with meter.measure() as peak:
            fake.free(fake.allocate(100))
        assert peak.bytes == 140 * MIB
    fake.others -= 60
    with meter.measure() as peak:
        fake.free(fake.allocate(100))
    assert peak.bytes == 100 * MIB


def test_within_a_trial_the_device_is_not_asked(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = a_meter()
    with meter.measure(), monkeypatch.context() as within:
        for name in [name for name in vars(FakeDevice) if not name.startswith("_")]:
            within.setattr(FakeDevice, name, lambda *args: pytest.fail("asked within a trial"))
    assert fake.calls == ["reset"]


def test_mps_by_what_its_driver_holds(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_device_that_does_not_tell_leaves_it_to_errors(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, module)
    meter = memory_meter("xpu:1")
    assert meter.budget == Budget(None, "not known: torch does not tell for xpu:1", False)
    with meter.measure() as peak:
        pass
    assert peak.bytes is None
    assert peak.fits(meter.budget)
    assert meter.budget.may_run(1e15)


def test_a_module_with_peaks_only_still_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Meta's MTIA: peaks, but neither what is free nor what is reserved."""
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
def test_on_a_real_device_the_budget_is_what_can_be_allocated_and_the_peak_what_was() -> None:
    torch.empty(1, device="cuda")
    meter = memory_meter("cuda")
    assert meter.budget.bytes is not None
    with meter.measure() as peak:
        torch.empty(256 * MIB, dtype=torch.uint8, device="cuda")
    assert peak.bytes == pytest.approx(256 * MIB, abs=32 * MIB)
    assert peak.retries == peak.ooms == 0
    slack = 64 * MIB  # what the driver keeps for itself
    with meter.measure() as peak:
        value, oom = attempt(lambda: torch.empty(meter.budget.bytes - slack, dtype=torch.uint8, device="cuda"), "cuda")
        del value
    assert oom is None
    assert peak.fits(meter.budget)
    with meter.measure() as peak:
        _, oom = attempt(lambda: torch.empty(meter.budget.bytes + slack, dtype=torch.uint8, device="cuda"), "cuda")
    assert oom is not None
    assert peak.ooms >= 1
    assert not peak.fits(meter.budget)
