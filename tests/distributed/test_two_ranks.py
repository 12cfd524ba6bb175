"""Two gloo processes on one machine: DDP, a failure on one rank, FSDP2. One NCCL process on an accelerator."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.launch import check_both, needs_streams, run_ranks

MODULE = "tests.distributed.two_ranks"


@pytest.mark.parametrize("scenario", ["ddp", pytest.param("fsdp2", marks=needs_streams)])
def test_no_trace_and_the_same_answer_on_both_ranks(scenario: str, tmp_path: Path) -> None:
    check_both(scenario, tmp_path, timeout=240, module=MODULE)


@pytest.mark.parametrize("scenario", ["ddp", "fsdp2"])
@pytest.mark.parametrize(
    "device",
    [pytest.param("cpu", marks=pytest.mark.exhaustive), pytest.param("gpu", marks=pytest.mark.gpu)],
)
def test_one_rank(scenario: str, device: str, tmp_path: Path) -> None:
    """On an accelerator with NCCL, whose one process is what a single card can run."""
    check_both(scenario, tmp_path, timeout=240, module=MODULE, ranks=1, device=device)


def test_an_error_on_one_rank_ends_both_and_restores_both(tmp_path: Path) -> None:
    """The peer deadlocks here: its restoring waits for the other rank at a barrier."""
    for code, output in run_ranks("one_rank_fails", tmp_path, timeout=120, module=MODULE):
        assert code != 0
        assert "restored" in output, output[-3000:]
