"""The learning rate on two processes: each scenario is run in both. On an accelerator there is one, and NCCL."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn

from lightning_hp import SAM, LRFinder
from tests.callbacks.contract import Rehearse, loader
from tests.devices import torch_device
from tests.training import NUM_CLASSES, NUM_FEATURES, Net, Run, assert_identical, assert_same_training, train

DEVICE = os.environ.get("SCENARIO_DEVICE", "cpu")
BACKEND = "gloo" if DEVICE == "cpu" else "nccl"
RANKS = int(os.environ.get("WORLD_SIZE", "2"))
DDP: dict[str, Any] = {"accelerator": DEVICE, "devices": RANKS, "max_epochs": 2}


def finder(**kwargs: Any) -> LRFinder:
    few = {"num_training_steps": 40, "suggestion": "trainings", "budget": 100}
    return LRFinder(**{"min_lr": 1e-4, "max_lr": 10.0, **few, **kwargs})


def run(callbacks: list[Any], module: dict[str, Any], trainer: dict[str, Any]) -> Run:
    torch.manual_seed(5)
    strategy = DDPStrategy(process_group_backend=BACKEND)
    return train(Net(**module), callbacks, loader(shuffle=True), strategy=strategy, **DDP, **trainer)


def same_on_both_ranks(value: float) -> bool:
    own = torch.tensor(value, dtype=torch.float64, device=torch_device(DEVICE))
    values = [torch.zeros_like(own) for _ in range(RANKS)]
    dist.all_gather(values, own)
    return all(bool(other == own) for other in values)


def ddp() -> None:
    """No trace, the same answer on all ranks, the value by hand."""
    rows: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"dropout": 0.3, "batch_norm": True}, {}),
        ({"optimizer": "adamw"}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}),
    ]
    for module, trainer in rows:
        without = run([], module, trainer)
        assert_same_training(run([Rehearse()], module, trainer), without)
        assert_same_training(run([finder(update_attr=False)], module, trainer), without)
        active = finder()
        applied = run([active], module, trainer)
        assert active.optimal_lr is not None
        assert same_on_both_ranks(active.optimal_lr)
        assert_same_training(applied, run([], {**module, "lr": active.optimal_lr}, trainer))


class FailsOnOneRank(Net):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_rank == 1 and len(self.seen) == 5:
            raise RuntimeError("a bug on one rank")
        return super().training_step(batch, batch_idx)


class RestoredOnTheOther(LRFinder):
    """After the failure, on whichever rank it shows, the weights are those from before."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        before = copy.deepcopy(pl_module.state_dict())
        try:
            super().on_fit_start(trainer, pl_module)
        finally:
            assert_identical(dict(pl_module.state_dict()), dict(before), "weights")
            print("restored", flush=True)


def one_rank_fails() -> None:
    """Ends with an error on both ranks, soon: a plain fit does, and so must we."""
    train(
        FailsOnOneRank(), [RestoredOnTheOther()], loader(), strategy=DDPStrategy(process_group_backend=BACKEND), **DDP
    )


class Sharded(pl.LightningModule):
    """FSDP2: every parameter is split over the processes."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.seen: list[Any] = []

    def configure_model(self) -> None:
        from torch.distributed._composable.fsdp import fully_shard

        if hasattr(self, "net"):
            return
        torch.manual_seed(5)
        self.net = nn.Sequential(nn.Linear(NUM_FEATURES, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, NUM_CLASSES))
        for layer in (self.net[0], self.net[3], self.net):
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def shards(run: Run) -> list[torch.Tensor]:
    return [parameter.to_local().detach().clone() for parameter in run.module.parameters()]


def fsdp2() -> None:
    """No trace and the value by hand, on sharded weights and sharded optimizer state."""

    def fit(callbacks: list[Any], **module: Any) -> list[torch.Tensor]:
        strategy = ModelParallelStrategy(
            data_parallel_size=RANKS, tensor_parallel_size=1, process_group_backend=BACKEND
        )
        pl.seed_everything(1)
        trainer = pl.Trainer(
            **DDP, strategy=strategy, callbacks=callbacks, logger=False, deterministic=DEVICE != "cpu" or None,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip
        sharded = Sharded(**module)
        trainer.fit(sharded, loader(shuffle=True), loader())
        return [parameter.to_local().detach().clone() for parameter in sharded.parameters()]

    without = fit([])
    assert_identical(fit([Rehearse()]), without, "shards")
    active = finder()
    applied = fit([active])
    assert active.optimal_lr is not None
    assert_identical(applied, fit([], lr=active.optimal_lr), "shards")
    if RANKS == 1:  # with two, tests/distributed/sam_ranks.py has it
        assert_identical(fit([Rehearse(), SAM(rho=0.1)]), fit([SAM(rho=0.1)]), "shards")
    assert same_on_both_ranks(active.optimal_lr)
