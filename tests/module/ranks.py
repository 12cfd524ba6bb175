"""What a classifier logs and weights on two processes: each function is run in both."""

from __future__ import annotations

import os

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset
from torchmetrics.functional import classification as tmf

from lightning_hp import Classifier
from tests.module.models import body, loader, pairs, quiet
from tests.training import NUM_CLASSES


def ddp() -> None:
    """The logged values of an epoch are over the samples of both processes."""
    pl.seed_everything(1)
    model = Classifier(body(), NUM_CLASSES, lr=0.05, top_k=2)
    strategy = DDPStrategy(process_group_backend="gloo")
    trainer = pl.Trainer(strategy=strategy, **quiet(devices=2, max_epochs=1))
    trainer.fit(model, loader(shuffle=True), loader(batch_size=7))
    x, y = pairs().tensors
    # Computed from the logits of all samples; the weights are the same on both processes.
    logits = model.eval()(x).detach()
    expected = {
        "val_loss": nn.functional.cross_entropy(logits, y),
        "val_accuracy": tmf.multiclass_accuracy(logits, y, NUM_CLASSES, average="micro"),
        "val_f1": tmf.multiclass_f1_score(logits, y, NUM_CLASSES, average="macro"),
        "val_accuracy_top2": tmf.multiclass_accuracy(logits, y, NUM_CLASSES, average="micro", top_k=2),
    }
    for name, value in expected.items():
        torch.testing.assert_close(trainer.callback_metrics[name], value)


class Unlabelled(Dataset):
    """Labels that are known only by reading the samples."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.data[index]


def balanced() -> None:
    """The weights are those of one process over all data, in whichever way it is divided."""
    rank = int(os.environ["LOCAL_RANK"])
    x, y = pairs().tensors
    x, y = torch.cat([x, x[y == 1]]), torch.cat([y, y[y == 1]])  # not balanced
    order = y.argsort()
    whole = TensorDataset(x, y)
    half = TensorDataset(*(tensor[order].chunk(2)[rank] for tensor in (x, y)))  # one class is on one process only
    expected = len(y) / (NUM_CLASSES * torch.bincount(y, minlength=NUM_CLASSES))
    own = DistributedSampler(whole, num_replicas=2, rank=rank, shuffle=False)
    for data, options in (
        (DataLoader(whole, 16), {}),
        (DataLoader(Unlabelled(whole), 16), {}),
        (DataLoader(whole, 16, sampler=own), {"use_distributed_sampler": False}),
        (DataLoader(half, 16), {"use_distributed_sampler": False}),
    ):
        model = Classifier(body(), NUM_CLASSES, lr=0.05, class_weights="balanced")
        strategy = DDPStrategy(process_group_backend="gloo")
        pl.Trainer(strategy=strategy, **quiet(devices=2, max_epochs=1), **options).fit(model, data)
        torch.testing.assert_close(model.class_weights, expected)
    unknown = TensorDataset(x) if rank else whole
    model = Classifier(body(), NUM_CLASSES, lr=0.05, class_weights="balanced")
    trainer = pl.Trainer(strategy=DDPStrategy(process_group_backend="gloo"), **quiet(devices=2, max_epochs=1))
    with pytest.raises(MisconfigurationException, match=r"balanced.: Expected .*Pass `class_weights` as numbers"):
        trainer.fit(model, DataLoader(unknown, 16))
