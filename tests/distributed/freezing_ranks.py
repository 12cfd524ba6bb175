"""Freezing on two processes: each scenario is run in both."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_hp import SAM, BackboneFreezing, BatchSizeScaler, LRFinder
from tests.callbacks.contract import loader
from tests.training import NUM_CLASSES, NUM_FEATURES, NUM_SAMPLES, Net, Samples, assert_same_training, train

EPOCHS, UNFREEZE_AT, LR = 3, 1, 0.1


def make_body() -> nn.Sequential:
    return nn.Sequential(nn.Linear(NUM_FEATURES, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh())


class Probe(pl.LightningModule):
    """Each process gets every second sample, in order."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.body, self.head = make_body(), nn.Linear(16, NUM_CLASSES)
        self.register_buffer("own", torch.zeros(()))
        self.unequal: list[bool] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.own += self.global_rank + 1
        return nn.functional.cross_entropy(self.head(self.body(batch[0])), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.head(self.body(batch[0]))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Samples(), batch_size=16, sampler=range(self.trainer.global_rank, NUM_SAMPLES, 2))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        grads = torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None])
        self.unequal.append(not equal_on_both(grads))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(
            [{"params": self.body.parameters(), "lr": LR / 10}, {"params": self.head.parameters()}],
            lr=LR,
            weight_decay=0.1,
        )


def by_hand(ramp_epochs: float = 0.0) -> list[Tensor]:
    """One process, batches of both: the head alone, then a second optimizer for the body beside it, if asked for with
    a rate that rises."""
    torch.manual_seed(5)
    body, head = make_body(), nn.Linear(16, NUM_CLASSES)
    optimizers = [torch.optim.AdamW(head.parameters(), lr=LR, weight_decay=0.1)]
    for epoch in range(EPOCHS):
        if epoch == UNFREEZE_AT:
            optimizers.append(torch.optim.AdamW(body.parameters(), lr=LR / 10, weight_decay=0.1))
        data = DataLoader(Samples(), batch_size=32)
        for number, (features, labels, _) in enumerate(data, 1):
            for optimizer in optimizers[1:] if ramp_epochs else ():
                share = (epoch - UNFREEZE_AT + number / len(data)) / ramp_epochs
                optimizer.param_groups[0]["lr"] = LR / 10 * min(share, 1)
            loss = nn.functional.cross_entropy(head(body(features)), labels)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
    return [*body.parameters(), *head.parameters()]


def equal_on_both(tensor: Tensor) -> bool:
    values = [torch.zeros_like(tensor) for _ in range(2)]
    dist.all_gather(values, tensor)
    return torch.equal(*values)


def assert_close(parameters: Any, expected: list[Tensor]) -> None:
    for got, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(got.detach(), wanted.detach(), rtol=1e-4, atol=1e-5)


def fit(callbacks: list[Any], **options: Any) -> Probe:
    module = Probe()
    strategy = DDPStrategy(process_group_backend="gloo", **options)
    train(module, callbacks, strategy=strategy, devices=2, max_epochs=EPOCHS, use_distributed_sampler=False)
    return module


class FreezesNaively(pl.Callback):
    """What Lightning's issue 20340 is about: frozen when DDP is built, unfrozen later."""

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        pl_module.body.requires_grad_(False)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.body.requires_grad_(trainer.current_epoch >= UNFREEZE_AT)


def freezing(**kwargs: Any) -> BackboneFreezing:
    return BackboneFreezing(UNFREEZE_AT, backbone="body", **kwargs)


def ddp() -> None:
    """All that is said of DDP, in one start of the processes: it takes most of the time."""
    gradients()
    finders()


def gradients() -> None:
    """The gradients of what is unfrozen are exchanged: equal to one process with the batches of both."""
    expected = by_hand()
    for options in ({}, {"gradient_as_bucket_view": True, "static_graph": True}):
        module = fit([freezing()], **options)
        assert not any(module.unequal), options
        assert all(equal_on_both(parameter.detach()) for parameter in module.parameters())
        assert_close(module.parameters(), expected)
    assert_close(fit([freezing(ramp_epochs=1.5)]).parameters(), by_hand(1.5))
    # The check can fail.
    naive = fit([FreezesNaively()])
    assert any(naive.unequal)
    # Buffers that DDP does not exchange stay each process's own.
    module = fit([freezing()], broadcast_buffers=False)
    assert float(module.own) == (module.global_rank + 1) * 9
    assert_close(module.parameters(), expected)


def finders() -> None:
    """A rehearsal builds DDP anew, too, and leaves the user's: no trace; the processes find the same."""

    def run(callbacks: list[Any]) -> Any:
        torch.manual_seed(5)
        module = Net(batch_norm=True, dropout=0.3, groups=True)
        strategy = DDPStrategy(process_group_backend="gloo")
        return train(module, callbacks, loader(shuffle=True), strategy=strategy, devices=2, max_epochs=3)

    few = {"limits": {"min_steps_per_epoch": 1, "min_training_steps": 1}, "max_val": 16, "min_per_class": 0}
    without = run([freezing()])
    for finder in (
        LRFinder(min_lr=1e-4, num_training_steps=30, num_repeats=1, update_attr=False, milestones=(0, UNFREEZE_AT)),
        BatchSizeScaler(objective="memory", update_attr=False, **few),
    ):
        assert_same_training(run([finder, freezing()]), without)
    climbing = run([freezing(), SAM(rho=0.05)])
    assert all(equal_on_both(parameter.detach()) for parameter in climbing.module.parameters())


class ShardedProbe(Probe):
    """The same, its parameters split over the processes."""

    def configure_model(self) -> None:
        from torch.distributed._composable.fsdp import fully_shard

        for layer in (self.body[0], self.body[2], self.body, self.head, self):
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.body(features))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        frozen = self.trainer.current_epoch < UNFREEZE_AT
        assert all((parameter.grad is None) == frozen for parameter in self.body.parameters())
        assert all(parameter.grad is not None for parameter in self.head.parameters())


def fsdp2() -> None:
    """Sharded weights: equal to one process with the batches of both."""
    for ramp_epochs in (0.0, 1.5):
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
        module = ShardedProbe()
        train(
            module, [freezing(ramp_epochs=ramp_epochs)], strategy=strategy, devices=2, max_epochs=EPOCHS,
            use_distributed_sampler=False, logger=False,
        )  # fmt: skip
        assert_close([parameter.full_tensor() for parameter in module.parameters()], by_hand(ramp_epochs))
