"""Balanced batches on two processes: each function without arguments that a test names is run in both."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader, TensorDataset

from lightning_hp import ClassBalancedBatchSampler

LABELS = torch.tensor([0] * 40 + [1] * 16 + [2] * 8)
DATA = TensorDataset(torch.arange(64.0)[:, None], LABELS)
BATCH_SIZE, EPOCHS = 8, 3


class Records(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch[0].flatten().long())
        return self.layer(batch[0]).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def fit(**kwargs: Any) -> list[torch.Tensor]:
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy=DDPStrategy(process_group_backend="gloo"), max_epochs=EPOCHS,
        logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **kwargs,
    )  # fmt: skip
    module = Records()
    trainer.fit(module, DataLoader(DATA, batch_sampler=ClassBalancedBatchSampler(LABELS, BATCH_SIZE)))
    return module.seen


def divided() -> None:
    """Both ranks have every class in every batch, divide each epoch, and draw what samplers with their rank draw."""
    seen = torch.stack(fit(use_distributed_sampler=False))
    both = [torch.zeros_like(seen) for _ in range(2)]
    dist.all_gather(both, seen)
    for rank, drawn in enumerate(both):
        assert drawn.shape == (EPOCHS * 4, BATCH_SIZE)
        assert all(torch.bincount(LABELS[batch], minlength=3).min() >= 2 for batch in drawn)
        expected = ClassBalancedBatchSampler(LABELS, BATCH_SIZE, num_replicas=2, rank=rank)
        assert drawn.tolist() == [batch for _ in range(EPOCHS) for batch in expected]
    for epoch in torch.stack(both).unflatten(1, (EPOCHS, 4)).unbind(1):
        common = epoch[LABELS[epoch] == 0]
        assert common.unique().numel() == common.numel()


def balanced() -> None:
    """With Lightning's own sampler the run ends at once on both ranks, and the message says what to do."""
    with pytest.raises(TypeError, match="use_distributed_sampler=False"):
        fit()
    divided()
