"""How much a rehearsal holds in addition to the training: live tensors are counted, so no allocator decides."""

from __future__ import annotations

import gc

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_hp.rehearsal import Rehearsal
from lightning_hp.rehearsal.hooks import BEFORE_EPOCH

WIDTH = 307


def live_bytes(module):
    """Bytes of all tensors as large as a weight, each memory once. The gradients have to be seen by Python first.

    Tensors of other tests in this process are of other sizes.
    """
    _gradients = [parameter.grad for parameter in module.parameters()]
    gc.collect()
    memories = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            storage = thing.untyped_storage()
            if storage.nbytes() == WIDTH * WIDTH * 4:
                memories[storage.data_ptr()] = storage.nbytes()
    return sum(memories.values())


class Model(pl.LightningModule):
    def __init__(self, optimizer):
        super().__init__()
        self.optimizer = optimizer
        self.net = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False))

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


class Counting(pl.Callback):
    """Rehearses two steps at the start of the second epoch."""

    changes_gradients = False

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch != 1:
            return
        parameters = list(pl_module.parameters())
        gradients = [p.grad for p in parameters]
        sums = [p.grad.sum() for p in parameters]
        self.training = live_bytes(pl_module)
        with Rehearsal(trainer, pl_module, BEFORE_EPOCH) as rehearsal:
            rehearsal.step()
            rehearsal.step()
            self.rehearsal = live_bytes(pl_module)
        del rehearsal  # it keeps its copies, to be entered again
        self.after = live_bytes(pl_module)
        self.kept = all(p.grad is grad for p, grad in zip(parameters, gradients, strict=True))
        self.kept &= sums == [p.grad.sum() for p in parameters]


@pytest.mark.parametrize(
    ("optimizer", "held"),
    [
        (lambda parameters: torch.optim.Adam(parameters, lr=1e-3), 16),
        (lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9), 12),
        (lambda parameters: torch.optim.SGD(parameters, lr=1e-3), 8),
    ],
    ids=["adam", "momentum", "sgd"],
)
def test_at_a_later_milestone_a_rehearsal_takes_no_more_than_one_copy(optimizer, held):
    model, counting = Model(optimizer), Counting()
    loader = DataLoader(TensorDataset(torch.randn(8, WIDTH)), batch_size=2)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=2, log_every_n_steps=1, callbacks=[counting], enable_progress_bar=False, **quiet)
    trainer.fit(model, loader)
    number = sum(parameter.numel() for parameter in model.parameters())
    assert counting.training / number == pytest.approx(held, rel=0.05)
    assert (counting.rehearsal - counting.training) / number <= 1.05 * held
    assert counting.after == pytest.approx(counting.training, rel=0.01)
    assert counting.kept
