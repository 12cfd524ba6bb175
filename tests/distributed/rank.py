"""How one of two processes runs its scenario."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch.distributed as dist


def run_scenario(*scenarios: Callable[[], None]) -> None:
    """Runs the scenario that the command line names; leaves together with the other process.

    Gloo aborts a process whose peer went first.
    """
    torch.set_num_threads(1)
    {scenario.__name__: scenario for scenario in scenarios}[sys.argv[1]]()
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    print("done", flush=True)
