"""Peaks of host memory against allocations of a known size, by the kernel and by sampling; and a real limit."""

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
    monkeypatch: pytest.MonkeyPatch, quantity: Quantity, room: int = 1 << 40, kills: bool = False
) -> MemoryMeter:
    monkeypatch.setattr(host, "host_limits", lambda: [HostLimit(room, "a limit", kills, quantity)])
    return memory_meter("cpu")


def measured(meter: MemoryMeter, mib: int, hold: float = 0.05) -> Peak:
    with meter.measure() as peak:
        tensor = touch(mib)
        time.sleep(hold)
        del tensor
    return peak


def test_the_tightest_bound_counts_after_the_share_of_those_that_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = [HostLimit(1000, "kills", True), HostLimit(950, "raises", False, "address space")]
    monkeypatch.setattr(host, "host_limits", lambda: bounds)
    assert memory_meter("cpu").budget == Budget(900, "kills", True)
    assert memory_meter("cpu", share=0.96).budget == Budget(950, "raises", False)
    for share in (0, 1.01, -1, float("nan")):
        with pytest.raises(ValueError, match="`share` to be > 0 and <= 1"):
            memory_meter("cpu", share=share)


def test_what_may_be_run_and_what_fits() -> None:
    killing, raising, unknown = Budget(100, "", True), Budget(100, "", False), Budget(None, "", False)
    assert [killing.may_run(expected) for expected in (100, 101, None)] == [True, False, True]
    assert raising.may_run(1e9)
    assert unknown.may_run(1e9)
    assert Peak(100).fits(killing)
    assert not Peak(101).fits(killing)
    assert not Peak(101).fits(raising)
    assert Peak(None).fits(killing)
    assert Peak(10**12).fits(unknown)
    assert not Peak(1, retries=1).fits(killing)
    assert not Peak(1, ooms=1).fits(unknown)


@LINUX
@pytest.mark.parametrize("quantity", ["resident", "address space", "data"])
def test_the_peak_is_what_was_allocated(monkeypatch: pytest.MonkeyPatch, quantity: Quantity) -> None:
    meter = a_meter(monkeypatch, quantity)
    sizes = [256, 64, 128]  # the second and the third lie below a peak that the process has had
    peaks = [measured(meter, size) for size in sizes]
    assert [peak.bytes / MIB for peak in peaks] == pytest.approx(sizes, rel=0.02, abs=5)
    assert all(peak.sampled == (quantity != "resident") for peak in peaks[1:])


@LINUX
def test_a_new_peak_of_address_space_is_seen_however_short_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = a_meter(monkeypatch, "address space")
    above = host.status("VmPeak")[0] - host.status("VmSize")[0]
    size = above // MIB + 512
    with meter.measure() as peak:
        torch.empty(size, MIB, dtype=torch.uint8)
    assert not peak.sampled
    assert peak.bytes / MIB == pytest.approx(size, rel=0.02, abs=5)


def test_where_the_kernel_does_not_help_the_sampler_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_reset_resident_peak", lambda: False)
    meter = a_meter(monkeypatch, "resident")
    for size in (256, 64):
        peak = measured(meter, size)
        assert peak.sampled
        assert peak.bytes / MIB == pytest.approx(size, rel=0.02, abs=5)


def test_elsewhere_than_on_linux_psutil_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_LINUX", False)
    peak = measured(a_meter(monkeypatch, "resident"), 128)
    assert peak.sampled
    assert peak.bytes / MIB == pytest.approx(128, rel=0.02, abs=5)


def test_the_zero_is_when_the_meter_was_made_so_what_stays_counts_in_every_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meter = a_meter(monkeypatch, "resident")
    state = touch(64)  # as the state of an optimizer, which comes with the first step
    assert measured(meter, 64).bytes / MIB == pytest.approx(128, rel=0.02, abs=5)
    del state
    assert measured(meter, 64).bytes / MIB == pytest.approx(64, rel=0.02, abs=5)


def test_after_an_error_the_peak_is_there_and_no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = a_meter(monkeypatch, "resident")
    with pytest.raises(KeyError), meter.measure() as peak:
        {}[touch(64)]
    assert peak.bytes / MIB == pytest.approx(64, rel=0.02, abs=5)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lightning_hp")]


@LINUX
def test_measuring_takes_no_address_space_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that starts while the last one ends gets 64 MiB for its heap, where the limit is on address space."""
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


def test_children_count_while_they_live_and_those_from_before_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = 16 * MIB
    with a_child(128):
        meter = a_meter(monkeypatch, "resident")
        with meter.measure() as peak, a_child(64):
            time.sleep(0.3)
        assert 64 * MIB <= peak.bytes < 64 * MIB + interpreter
        with meter.measure() as peak:
            pass
        assert peak.bytes < interpreter
    with a_meter(monkeypatch, "address space").measure() as peak, a_child(512):  # has a limit of its own
        time.sleep(0.3)
    assert peak.bytes < 256 * MIB


@LINUX
def test_what_a_forked_worker_shares_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_sampler_sees_a_rise_between_its_ends_and_pauses_after_a_long_look() -> None:
    values = [1]

    def slow() -> int:
        looks.append(time.perf_counter())
        time.sleep(0.01)
        return 0

    with Sampler(lambda: values[-1], period=0.001) as sampler:
        values.append(7)
        time.sleep(0.1)
        values.append(2)
    assert sampler.largest == 7

    looks: list[float] = []
    with Sampler(slow, period=0.001):
        time.sleep(0.5)
    assert len(looks) <= 5  # one at each end, and between them one in 0.21 s


RLIMIT = """
import resource
import torch
from lightning_hp.functional.batch_memory import predict_batch_size
from lightning_hp.functional.batch_search import search_batch_size
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
        assert peak.fits(meter.budget)
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
