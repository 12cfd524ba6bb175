"""BatchSizeScaler under a real limit of the address space, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def child() -> None:
    """Finds a batch size 400 MiB below the limit, then trains at it and at sizes around it."""
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
            return torch.zeros(64), index % 3

    class Wide(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(64, 8192), nn.ReLU(), nn.Linear(8192, 3))  # memory goes with the batch

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
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize")[0] + 400 * 2**20, resource.RLIM_INFINITY))
    scaler = BatchSizeScaler(
        objective="memory", min_per_class=0, limits={"min_steps_per_epoch": 1, "min_training_steps": 1}
    )
    result = scaler.find(trainer(max_steps=3), Wide(), DataLoader(Rows(), batch_size=16, shuffle=True))
    found = result.batch_size
    tried = {size: trains(size) for size in (found, int(1.06 * found), int(1.2 * found))}
    print(json.dumps({"found": found, "decided_by": result.decided_by, "bounds": [*map(str, result.bounds)], **tried}))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not hold a process to RLIMIT_AS")
def test_the_size_found_is_close_to_the_limit_and_trains() -> None:
    # A fixed threshold keeps malloc from holding on to memory of earlier sizes, which moves the limit by itself.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.callbacks.test_batch_size_limit"],
        env=environment, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    found = said["found"]
    assert said["decided_by"] == "memory"
    assert any("RLIMIT_AS" in bound for bound in said["bounds"])
    assert said[str(found)]
    assert not said[str(int(1.06 * found))], f"{found} is less than 0.95 of the limit"


if __name__ == "__main__":
    child()
