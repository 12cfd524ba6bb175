"""Peaks of host memory, by the kernel and by sampling, for allocations of a known size; and a real limit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import lightning_hp
from lightning_hp.memory import Budget, MemoryMeter, Peak, host, memory_meter
from lightning_hp.memory.host import Sampler
from lightning_hp.memory.limits import HostLimit, Quantity

ROOT = Path(lightning_hp.__file__).parents[1]
MIB = 2**20
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


def touch(mib: int) -> torch.Tensor:
    return torch.ones(mib, MIB, dtype=torch.uint8)


def a_meter(
    monkeypatch: pytest.MonkeyPatch, quantity: Quantity, free_bytes: int = 1 << 40, kills: bool = False
) -> MemoryMeter:
    monkeypatch.setattr(host, "host_limits", lambda: [HostLimit(free_bytes, "a limit", kills, quantity)])
    return memory_meter("cpu")


def measured(meter: MemoryMeter, mib: int, hold: float = 0.3) -> Peak:
    with meter.measure() as peak:
        tensor = touch(mib)
        time.sleep(hold)
        del tensor
    return peak


def test_the_budget_is_the_tightest_limit_after_the_share_of_those_that_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = [HostLimit(1000, "kills", True), HostLimit(950, "raises", False, "address space")]
    monkeypatch.setattr(host, "host_limits", lambda: bounds)
    assert memory_meter("cpu").budget == Budget(900, "kills", True)
    assert memory_meter("cpu", share=0.96).budget == Budget(950, "raises", False)


@LINUX
@pytest.mark.parametrize("quantity", ["resident", "address space", "data"])
def test_the_peak_is_the_allocated_memory(monkeypatch: pytest.MonkeyPatch, quantity: Quantity) -> None:
    meter = a_meter(monkeypatch, quantity)
    sizes = [256, 64, 128]  # the second and the third are below an earlier peak of the process
    peaks = [measured(meter, size) for size in sizes]
    assert [peak.bytes / MIB for peak in peaks] == pytest.approx(sizes, rel=0.02, abs=5)
    assert all(peak.sampled == (quantity != "resident") for peak in peaks[1:])


@LINUX
def test_a_new_peak_of_address_space_is_measured_however_short_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = a_meter(monkeypatch, "address space")
    above = host.status("VmPeak")[0] - host.status("VmSize")[0]
    size = above // MIB + 512
    with meter.measure() as peak:
        torch.empty(size, MIB, dtype=torch.uint8)
    assert not peak.sampled
    assert peak.bytes / MIB == pytest.approx(size, rel=0.02, abs=5)


def test_without_a_peak_of_the_kernel_the_sampler_measures_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_reset_resident_peak", lambda: False)
    meter = a_meter(monkeypatch, "resident")
    for size in (256, 64):
        peak = measured(meter, size)
        assert peak.sampled
        assert peak.bytes / MIB == pytest.approx(size, rel=0.02, abs=5)


def test_on_other_systems_than_linux_the_peak_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_LINUX", False)
    peak = measured(a_meter(monkeypatch, "resident"), 128)
    assert peak.sampled
    assert peak.bytes / MIB == pytest.approx(128, rel=0.02, abs=5)


def test_memory_that_stays_allocated_after_the_meter_was_created_counts_in_every_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meter = a_meter(monkeypatch, "resident")
    state = touch(64)  # such as the state of an optimizer, which the first step creates
    assert measured(meter, 64).bytes / MIB == pytest.approx(128, rel=0.02, abs=5)
    del state
    assert measured(meter, 64).bytes / MIB == pytest.approx(64, rel=0.02, abs=5)


def test_after_an_error_the_peak_is_known_and_no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = a_meter(monkeypatch, "resident")
    with pytest.raises(KeyError), meter.measure() as peak:
        {}[touch(64)]
    assert peak.bytes / MIB == pytest.approx(64, rel=0.02, abs=5)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lightning_hp")]


@LINUX
def test_measuring_takes_no_address_space_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that starts before the last one has ended gets 64 MiB of address space for its heap."""
    meter = a_meter(monkeypatch, "address space")
    before = host.status("VmSize", "VmPeak")
    for _ in range(20):
        with meter.measure() as peak:
            pass
        assert peak.bytes < 2 * MIB
    assert host.status("VmSize", "VmPeak") == pytest.approx(before, abs=2 * MIB)


@contextmanager
def a_child(mib: int) -> Iterator[None]:
    code = f"held = b'x' * {mib * MIB}; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        yield
        child.communicate(b"\n")


def test_child_processes_count_unless_they_are_older_than_the_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = 16 * MIB
    with a_child(128):
        meter = a_meter(monkeypatch, "resident")
        with meter.measure() as peak, a_child(64):
            time.sleep(1.5)  # a busy machine takes few samples
        assert 64 * MIB <= peak.bytes < 64 * MIB + interpreter
        with meter.measure() as peak:
            pass
        assert peak.bytes < interpreter
    with a_meter(monkeypatch, "address space").measure() as peak, a_child(512):  # has a limit of its own
        time.sleep(0.3)
    assert peak.bytes < 256 * MIB


@LINUX
def test_pages_that_a_forked_worker_shares_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = touch(256)
    meter = a_meter(monkeypatch, "resident")
    with meter.measure() as peak:
        child = os.fork()
        if not child:
            time.sleep(0.6)
            os._exit(0)
        time.sleep(0.4)
        os.waitpid(child, 0)
    assert shared.numel() == 256 * MIB
    assert peak.bytes < 64 * MIB


def test_the_sampler_reads_between_its_ends_and_pauses_after_a_slow_reading() -> None:
    values = [1]

    def slow() -> int:
        readings.append(time.perf_counter())
        time.sleep(0.01)
        return 0

    with Sampler(lambda: values[-1], period=0.001) as sampler:
        values.append(7)
        time.sleep(0.1)
        values.append(2)
    assert sampler.largest == 7

    readings: list[float] = []
    with Sampler(slow, period=0.001):
        time.sleep(0.5)
    assert len(readings) <= 5  # one at each end, and between them one in 0.21 s


RLIMIT = """
import resource
import torch
from lightning_hp.functional.batch_size.memory import predict_batch_size
from lightning_hp.functional.batch_size.search import search_batch_size
from lightning_hp.memory import attempt, memory_meter
from lightning_hp.memory.limits import status

torch.set_num_threads(1)
net = torch.nn.Sequential(*[layer for _ in range(4) for layer in (torch.nn.Linear(64, 64), torch.nn.ReLU())])
optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

def train(batch_size):
    for _ in range(2):
        optimizer.zero_grad()
        net(torch.ones(batch_size, 64)).square().mean().backward()
        optimizer.step()

train(2)
resource.setrlimit(resource.RLIMIT_AS, (status("VmSize")[0] + 240 * 2**20,) * 2)
meter = memory_meter("cpu")
print(meter.budget.source, meter.budget.kills, sep=", ")
peaks = {}

def fits(batch_size):
    with meter.measure() as peak:
        _, oom = attempt(lambda: train(batch_size), "cpu")
    if oom is None:
        peaks[batch_size] = peak
        assert peak.bytes <= meter.budget.bytes
        assert peak.retries == peak.ooms == 0
    return oom is None

found = search_batch_size(fits, init_val=8192, max_val=10**6, tolerance=0.04).batch_size
print(peaks[found].bytes / meter.budget.bytes)
exact = [(size, peak.bytes) for size, peak in peaks.items() if not peak.sampled]
print(predict_batch_size(exact[:2], meter.budget.bytes) / found)
"""


@LINUX
def test_under_a_real_limit_the_peak_is_the_budget_where_allocation_fails() -> None:
    run = subprocess.run(
        [sys.executable, "-c", RLIMIT],
        capture_output=True,
        text=True,
        timeout=240,
        # A fixed threshold: by itself glibc raises it, and then keeps holes in the heap that depend on what ran before.
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072"},
    )
    assert run.returncode == 0, run.stderr
    bound, peak, predicted = run.stdout.splitlines()
    assert bound == "RLIMIT_AS (ulimit -v), False"
    assert 0.9 <= float(peak) <= 1
    assert float(predicted) == pytest.approx(1, rel=0.08)
