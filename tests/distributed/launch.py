"""Two processes on one machine. Each runs a scenario: a function without arguments in a module of the tests."""

from __future__ import annotations

import importlib
import socket
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.forked import Forked

needs_streams = pytest.mark.skipif(
    not hasattr(torch.cpu.current_stream(), "record_event"), reason="this torch has no FSDP2 on the CPU"
)


def _run(module: str, scenario: str) -> None:
    """Runs in each process; leaves together with the other one, since gloo aborts a process whose peer went first."""
    getattr(importlib.import_module(module), scenario)()
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    print("done", flush=True)


def run_ranks(
    scenario: str, folder: Path, timeout: float, module: str, ranks: int = 2, device: str = "cpu"
) -> list[tuple[int, str]]:
    """Exit code and output of each rank; a rank that does not end in time fails the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    group |= {"NODE_RANK": "0", "SCENARIO_DEVICE": device}
    processes = [Forked(_run, (module, scenario), folder, **group, LOCAL_RANK=str(rank)) for rank in range(ranks)]
    end = time.monotonic() + timeout
    ended = [(rank.wait(max(0.0, end - time.monotonic())), rank.output) for rank in processes]
    codes = [(code, output) for code, output in ended if code is not None]
    assert len(codes) == ranks, (
        f"A rank did not end within {timeout} s: {[(code, text[-2000:]) for code, text in ended]}"
    )
    return codes


def check_both(scenario: str, folder: Path, timeout: float, module: str, ranks: int = 2, device: str = "cpu") -> None:
    """Fails unless all ranks run the scenario to its end."""
    for code, output in run_ranks(scenario, folder, timeout, module, ranks, device):
        assert code == 0, output[-3000:]
        assert output.rstrip().endswith("done")
