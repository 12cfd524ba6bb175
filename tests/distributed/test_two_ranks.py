"""Two gloo processes on one machine: DDP, a failure on one rank, FSDP2. One NCCL process on an accelerator."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def two_ranks(
    scenario: str,
    cwd: Path,
    timeout: float,
    module: str = "tests.distributed.two_ranks",
    ranks: int = 2,
    device: str = "cpu",
) -> list[tuple[int, str]]:
    """Exit code and output of each rank; a rank that does not end in time fails the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    environment |= {"WORLD_SIZE": str(ranks), "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, scenario, device],
            cwd=cwd,
            env={**environment, "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


needs_streams = pytest.mark.skipif(
    not hasattr(torch.cpu.current_stream(), "record_event"), reason="this torch has no FSDP2 on the CPU"
)


@pytest.mark.parametrize("scenario", ["ddp", pytest.param("fsdp2", marks=needs_streams)])
def test_no_trace_and_the_same_answer_on_both_ranks(scenario: str, tmp_path: Path) -> None:
    for code, output in two_ranks(scenario, tmp_path, timeout=240):
        assert code == 0, output[-3000:]
        assert output.rstrip().endswith("done")


@pytest.mark.parametrize("scenario", ["ddp", "fsdp2"])
@pytest.mark.parametrize(
    "device",
    [pytest.param("cpu", marks=pytest.mark.exhaustive), pytest.param("gpu", marks=pytest.mark.gpu)],
)
def test_one_rank(scenario: str, device: str, tmp_path: Path) -> None:
    """On an accelerator with NCCL, whose one process is what a single card can run."""
    ((code, output),) = two_ranks(scenario, tmp_path, timeout=240, ranks=1, device=device)
    assert code == 0, output[-3000:]
    assert output.rstrip().endswith("done")


def test_an_error_on_one_rank_ends_both_and_restores_both(tmp_path: Path) -> None:
    """The peer deadlocks here: its restoring waits for the other rank at a barrier."""
    for code, output in two_ranks("one_rank_fails", tmp_path, timeout=120):
        assert code != 0
        assert "restored" in output, output[-3000:]
