"""A loss landscape on two processes: each scenario is run in both."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from lightning_hp import LossLandscape
from lightning_hp.functional import random_directions
from tests.distributed.two_ranks import DDP
from tests.training import Net, Samples, assert_same_training, train


class FirstBatch(pl.Callback):
    """Keeps the first batch of its process."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if not hasattr(self, "batch"):
            self.batch = copy.deepcopy(batch)


def run(callbacks: list[Any]) -> Any:
    torch.manual_seed(5)
    strategy = DDPStrategy(process_group_backend="gloo")
    loader = torch.utils.data.DataLoader(Samples(), 16, shuffle=True)
    return train(Net(batch_norm=True, dropout=0.3), callbacks, loader, strategy=strategy, **DDP)


def loss_of(module: Any, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(module(batch[0]), batch[1])


def shared() -> None:
    """The processes share the points, both have the surface of rank zero's batch, and the training is as without."""
    without = run([])
    for directions in ("random", "trajectory"):
        landscape = LossLandscape(
            directions=directions, num_samples=16, resolution=5, num_eigenvalues=1, radii=[0.1], loss=loss_of
        )
        assert_same_training(run([landscape]), without)
        every: list[Any] = [None, None]
        result = landscape.result
        assert result is not None
        dist.all_gather_object(every, (result.surfaces[0], result.eigenvalues, result.rises))
        assert np.array_equal(every[0][0], every[1][0])
        assert every[0][1:] == every[1][1:]
        assert np.isfinite(result.surfaces[0]).all()
        if directions == "random":
            surface = result.surfaces[0]
    first = FirstBatch()
    module = run([first]).module.eval()
    if module.global_rank == 0:
        moves = random_directions(module.parameters(), 2)
        with torch.no_grad():
            for parameter, d1, d2 in zip(module.parameters(), *moves, strict=True):
                parameter.add_(0.5 * d1 - d2)
            expected = float(loss_of(module, first.batch))
        assert abs(surface[0, 3] / expected - 1) < 1e-5
