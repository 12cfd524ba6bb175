"""BatchSizeScaler under limits of the memory, each in a process of its own: address space, control group, simulated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def child(limits_itself: bool) -> None:
    """Finds a batch size, 400 MiB below a limit or in the control group that it is in, and trains at it."""
    import resource

    import pytorch_lightning as pl
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset

    from lightning_hp import BatchSizeScaler
    from lightning_hp.memory import is_out_of_memory
    from lightning_hp.memory.limits import status

    torch.set_num_threads(1)

    class Rows(Dataset):
        def __len__(self) -> int:
            return 100_000

        def __getitem__(self, index: int) -> Any:
            return torch.zeros(16), index % 3

    class Wide(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(16, 32768), nn.ReLU(), nn.Linear(32768, 3))  # memory goes with the batch

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)

    def trainer(**kwargs: Any) -> pl.Trainer:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        return pl.Trainer(accelerator="cpu", enable_progress_bar=False, **quiet, **kwargs)

    def trains(size: int) -> bool:
        try:
            trainer(max_steps=3).fit(Wide(), DataLoader(Rows(), batch_size=size, shuffle=True))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    trains(2)  # what is imported and built once is no part of the limit
    if limits_itself:
        resource.setrlimit(resource.RLIMIT_AS, (status("VmSize")[0] + 400 * 2**20, resource.RLIM_INFINITY))
    scaler = BatchSizeScaler(
        objective="memory", min_per_class=0, limits={"min_steps_per_epoch": 1, "min_training_steps": 1}
    )
    result = scaler.find(trainer(max_steps=3), Wide(), DataLoader(Rows(), batch_size=16, shuffle=True))
    found = result.batch_size
    sizes = (found, int((1 / 0.93) * found), int(1.2 * found)) if limits_itself else (found,)
    tried = {size: trains(size) for size in sizes}
    print(json.dumps({"found": found, "decided_by": result.decided_by, "bounds": [*map(str, result.bounds)], **tried}))


def run_child(kind: str, *command: str) -> dict[str, Any]:
    done = subprocess.run(
        [*command, sys.executable, "-m", "tests.callbacks.test_batch_size_limit", kind],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert said["decided_by"] == "memory"
    assert said[str(said["found"])]
    return said


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not hold a process to RLIMIT_AS")
@pytest.mark.parametrize("growth", [1.2, pytest.param(1 / 0.93, marks=pytest.mark.exhaustive)])
def test_the_size_found_is_close_to_the_limit_and_trains(growth: float) -> None:
    """Also with the defaults of glibc, which holds on to the memory of earlier sizes.

    How much address space the libraries take at the same time varies by a few percent from run to run.
    """
    said = run_child("address space")
    assert any("RLIMIT_AS" in bound for bound in said["bounds"])
    assert not said[str(int(growth * said["found"]))], f"{growth:.3g} times the size trains too: {said}"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("systemd-run"), reason="a control group is made with systemd-run")
def test_in_a_control_group_that_kills_the_search_ends_and_the_size_trains() -> None:
    user = [] if os.geteuid() == 0 else ["--user"]
    group = ["systemd-run", *user, "--scope", "--quiet", "-p", "MemoryMax=1600M", "-p", "MemorySwapMax=0"]
    probe = subprocess.run([*group, "true"], capture_output=True, text=True, timeout=60, check=False)
    if probe.returncode or not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip(f"This machine makes no control group of version 2: {probe.stderr.strip() or 'it has version 1'}")
    said = run_child("control group", *group)
    assert any("memory.max" in bound for bound in said["bounds"])


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the record of Linux")
@pytest.mark.parametrize("kind", ["all pairs", "fifth step takes three times as much"])
def test_a_simulated_watchdog_does_not_act_and_most_of_the_room_is_used(kind: str) -> None:
    """All kinds are in the benchmark; this is a sample of it."""
    from benchmarks.batch_size_watchdog import in_process

    one = in_process(kind, "memory", 96)
    assert not one.killed
    assert one.error is None
    assert max(one.search_peak, one.training_peak) >= 0.9 * one.memory_share


if __name__ == "__main__":
    child(sys.argv[1] == "address space")
