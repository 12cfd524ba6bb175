"""Two processes on one machine, each of which runs a scenario: a function without arguments of a module of the tests.

Both are forked from a server process that has imported what all scenarios need: a scenario takes the time of what it
does, and not that of the imports.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import socket
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

needs_streams = pytest.mark.skipif(
    not hasattr(torch.cpu.current_stream(), "record_event"), reason="this torch has no FSDP2 on the CPU"
)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["lightning_hp.sweeping", "optuna", "pytorch_lightning", "torch.distributed.fsdp"])


def _run(module: str, scenario: str, folder: str, environment: dict[str, str]) -> None:
    """Runs in each process; leaves together with the other one, since gloo aborts a process whose peer went first."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    output = os.open(_output(folder, environment["LOCAL_RANK"]), os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    getattr(importlib.import_module(module), scenario)()
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    print("done", flush=True)


def _output(folder: Path | str, rank: int | str) -> Path:
    return Path(folder) / f"output_of_rank_{rank}.txt"


def two_ranks(scenario: str, folder: Path, timeout: float, module: str) -> list[tuple[int, str]]:
    """Exit code and output of each rank; a rank that does not end in time fails the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    environment |= {"NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    ranks = [
        _context.Process(target=_run, args=(module, scenario, str(folder), {**environment, "LOCAL_RANK": str(rank)}))
        for rank in range(2)
    ]
    end = time.monotonic() + timeout
    for rank in ranks:
        rank.start()
    try:
        for rank in ranks:
            rank.join(max(0.0, end - time.monotonic()))
        codes = [rank.exitcode for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    outputs = [_output(folder, rank).read_text() for rank in range(2)]
    assert None not in codes, (
        f"A rank did not end within {timeout} s: {codes}\n{outputs[0][-2000:]}\n{outputs[1][-2000:]}"
    )
    return list(zip(codes, outputs, strict=True))


def check_both(scenario: str, folder: Path, timeout: float, module: str) -> None:
    """Fails unless both ranks run the scenario to its end."""
    for code, output in two_ranks(scenario, folder, timeout, module):
        assert code == 0, output[-3000:]
        assert output.rstrip().endswith("done")
