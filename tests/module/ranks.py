"""Runs in each of two processes: `python -m tests.module.ranks ddp`. Fails by its exit code."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torchmetrics.functional import classification as tmf

from lightning_hp import Classifier
from tests.distributed.rank import run_scenario
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


if __name__ == "__main__":
    run_scenario(ddp)
