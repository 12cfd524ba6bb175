"""The benchmarks on an accelerator, with what they have to show there; on the CPU the same code with small sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import accelerator, accelerator_report
from benchmarks.accelerator import FULL, TINY, CrowdedCard, SearchJob, Sizes, cuda_card
from benchmarks.trainers import ON_CPU
from lightning_hp.memory.accelerator import AcceleratorMeter
from lightning_hp.tuning.batch_size import find
from tests.devices import on_each_device
from tests.memory.test_accelerator import MIB, FakeDevice, use

Record = Callable[[str, object], None]

pytestmark = [
    # A loader on one sample, and a loop in which the first step of an optimizer is that of a second pass.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def sizes(device: str) -> Sizes:
    return TINY if device == "cpu" else FULL


def cases(of: Callable[[Sizes], Any]) -> Any:
    """The jobs on the CPU and those on an accelerator."""
    return pytest.mark.parametrize(
        ("device", "job"),
        [pytest.param("cpu", job, id=f"cpu-{job.name}") for job in of(TINY)]
        + [pytest.param("gpu", job, id=f"gpu-{job.name}", marks=pytest.mark.gpu) for job in of(FULL)],
    )


def show(record_property: Record, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        record_property(f"{row['job']}, {row['driver']}", f"{row['step_ms']:.2f} ms, ratio {row['ratio']:.3f}")


@cases(lambda sizes: sizes.sam)
def test_a_step_of_sam(device: str, job: Any, record_property: Record) -> None:
    rows = accelerator.sam_steps(job)
    record_property("figures", {"environment": accelerator.environment(), "sam": rows})
    show(record_property, rows)
    ratios = {row["driver"]: row["ratio"] for row in rows}
    assert ratios["two passes"] == ratios["Trainer.fit, two passes"] == 1
    assert all(0 < row["low"] <= row["ratio"] <= row["high"] for row in rows)
    if device == "gpu":
        peers = [ratios[name] for name in ("usual published loop", "pytorch_optimizer, foreach") if name in ratios]
        most = 1.08 if "small tensors" in job.name else 1.03
        assert ratios["hpf.Perturbation"] <= min(most, *peers), ratios
        assert ratios["Trainer.fit, SAM"] <= most, ratios


@on_each_device
def test_a_step_of_the_finder(device: str, record_property: Record) -> None:
    rows = accelerator.finder_steps(sizes(device).finder)
    record_property("figures", {"finder": rows})
    show(record_property, rows)
    assert [row["driver"] for row in rows] == ["Trainer.fit", "LRFinder", "Lightning lr_find"]
    if device == "gpu":
        assert rows[1]["ratio"] <= 1.05, rows


@on_each_device
def test_a_snapshot(device: str, record_property: Record) -> None:
    found = accelerator.snapshot_speed(sizes(device).parameters, sizes(device).where)
    record_property("figures", {"snapshot": found})
    record_property("snapshot", f"{found['gb_per_second']:.1f} GB/s, ratio to bare copies {found['ratio']:.2f}")
    assert found["bytes"] == pytest.approx(4 * sizes(device).parameters, rel=0.01)
    if device == "gpu":
        assert found["ratio"] <= 2, found


class FakeCard:
    """A card whose memory is simulated, beside a network on the CPU."""

    where = ON_CPU

    def __init__(self, fake: FakeDevice) -> None:
        self.fake = fake

    @contextlib.contextmanager
    def small(self, memory: int) -> Iterator[None]:
        self.fake.fraction = memory / MIB / self.fake.total
        yield
        self.fake.fraction = 1.0

    def allocated(self) -> int:
        return sum(self.fake.blocks.values())

    def reserved(self) -> int:
        return self.allocated() + sum(self.fake.cached)

    def ooms(self) -> int:
        return self.fake.ooms


class FakeNet(nn.Module):
    """Takes memory of the fake device for each sample of a step."""

    def __init__(self, fake: FakeDevice) -> None:
        super().__init__()
        self.layer, self.fake = nn.Linear(4, 10), [fake]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (fake,) = self.fake
        with contextlib.ExitStack() as held:
            for size in (20, len(x)):
                held.callback(fake.free, fake.allocate(size))
        return self.layer(x)


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"with_sam": True}, marks=pytest.mark.exhaustive)], ids=["plain", "sam"]
)
def test_a_search_for_the_batch_size_with_simulated_memory(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeDevice()
    use(monkeypatch, fake)
    monkeypatch.setattr(find, "memory_meter", lambda device, share: AcceleratorMeter(torch.device("cuda:0"), share))
    job = SearchJob("fake", partial(FakeNet, fake), (4,), **options)
    rows = accelerator.batch_searches(job, FakeCard(fake), 400 * MIB, 2000)
    assert rows[0]["largest"] == pytest.approx(380, rel=0.02)
    check_search(rows[0])
    assert rows[0]["ooms"] <= rows[1]["ooms"]
    assert rows[1]["size"] == 256


def check_search(row: dict[str, Any]) -> None:
    assert row["error"] is None
    assert 0.95 <= row["share"] <= 1, row
    assert row["ooms"] <= 1
    assert row["allocated_more"] == 0
    assert row["reserved_more"] <= 32 * MIB


@pytest.mark.gpu
@pytest.mark.parametrize("job", FULL.searches, ids=lambda job: job.name)
def test_a_search_for_the_batch_size(job: SearchJob, record_property: Record) -> None:
    rows = accelerator.batch_searches(job, cuda_card(job), FULL.memory, FULL.samples)
    record_property("figures", {"searches": rows})
    for row in rows:
        what = f"{row['size']} of {row['largest']} ({row['share']:.0%}), {row.get('seconds', 0):.1f} s"
        record_property(f"{job.name}, {row['method']}", f"{what}, out of memory {row.get('ooms')} times")
    check_search(rows[0])


def test_another_process_holds_memory_until_the_search_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = CrowdedCard._HOLD.replace("torch.cuda.mem_get_info()[0] - int(sys.argv[1])", "int(sys.argv[1])")
    on_cpu = on_cpu.replace(', device="cuda"', "").replace("torch.cuda.synchronize()\n", "")
    assert "cuda" not in on_cpu
    without_torch = on_cpu.replace("sys, torch", "sys").replace("torch.empty(", "dict(n=").replace("torch.uint8", "1")
    monkeypatch.setattr(CrowdedCard, "_HOLD", without_torch)  # which takes seconds to import
    card = CrowdedCard()
    monkeypatch.setattr(CrowdedCard, "where", ON_CPU)
    with card.small(100):
        pass
    monkeypatch.setattr(CrowdedCard, "_HOLD", "raise SystemExit")
    with pytest.raises(RuntimeError, match="it has ended"), card.small(100):
        pass


def test_the_page_is_what_the_last_run_gives() -> None:
    page = accelerator_report.FOLDER / "accelerator.md"
    assert page.read_text() == accelerator_report.render(accelerator_report.load())


def test_the_page_with_figures() -> None:
    step = {"job": "net", "driver": "SAM", "step_ms": 2.0, "ratio": 1.02, "low": 1.01, "high": 1.03}
    found = {"job": "net", "method": "m", "error": None, "size": 95, "largest": 100, "share": 0.95, "seconds": 0.5}
    found |= {"ooms": 1, "allocated_more": 0, "reserved_more": 2 * MIB}
    failed = {"job": "net", "method": "n", "error": "OutOfMemoryError", "size": 0, "largest": 100, "share": 0.0}
    page = accelerator_report.render(
        {
            "environment": accelerator.environment(),
            "sam": [step],
            "finder": [step],
            "snapshot": {"bytes": 4e8, "first_seconds": 0.2, "seconds": 0.02, "gb_per_second": 40.0, "ratio": 1.1},
            "searches": [found, failed],
        }
    )
    assert "| net | SAM | 2.00 | +2.0% (+1.0% to +3.0%) |" in page
    assert "| net | m | 95 | 100 | 95% | 500 | 1 | 0.0 and 2.0 |" in page
    assert "| net | n | OutOfMemoryError | 100 |  |  |  |  |" in page
