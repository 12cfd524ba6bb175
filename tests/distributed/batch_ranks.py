"""The batch size on two processes: each scenario is run in both."""

from __future__ import annotations

import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from lightning_hp import SAM, BatchSizeScaler
from tests.distributed.two_ranks import DDP, Sharded, same_on_both_ranks
from tests.training import Net, Run, Samples, assert_identical, assert_same_training, train

LIMITS = {"min_steps_per_epoch": 1, "min_training_steps": 1, "min_step_share": 1e-9}


def scaler(**kwargs: Any) -> BatchSizeScaler:
    return BatchSizeScaler(
        **{
            "objective": "memory",
            "min_per_class": 0,
            "round_to": 1,
            "limits": LIMITS,
            **kwargs,
        }
    )


def loader(batch_size: int = 16) -> DataLoader:
    return DataLoader(Samples(640), batch_size=batch_size, shuffle=True)


class Unequal(Net):
    """Rank 0 runs out of memory above 150 samples, rank 1 above 100; what is logged is reduced in each step."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if len(batch[0]) > (150, 100)[self.global_rank]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        loss = super().training_step(batch, batch_idx)
        self.log("reduced", loss, sync_dist=True, on_step=True, batch_size=len(batch[0]))
        return loss


def run(callbacks: list[Any], module: pl.LightningModule, data: DataLoader | None = None, **trainer: Any) -> Run:
    torch.manual_seed(5)
    strategy = trainer.pop("strategy", None) or DDPStrategy(process_group_backend="gloo")
    return train(module, callbacks, loader() if data is None else data, strategy=strategy, **{**DDP, **trainer})


def net(module_class: type[Net] = Net, **kwargs: Any) -> Net:
    torch.manual_seed(5)
    return module_class(**kwargs)


def ddp() -> None:
    """Limits that differ: both agree on the smaller one; no trace; the values by hand."""
    options = {"dropout": 0.3, "batch_norm": True}
    without = run([], net(Unequal, **options))
    assert_same_training(run([scaler(update_attr=False)], net(Unequal, **options)), without)
    active = scaler()
    applied = run([active], net(Unequal, **options))
    found = active.optimal_batch_size
    assert found is not None
    assert 95 <= found <= 100
    assert same_on_both_ranks(found)
    result = active.result
    assert result is not None
    assert (result.world_size, result.effective_batch_size) == (2, 2 * found)
    assert math.isclose(result.lr_scaled or 0, 0.05 * found / 16)
    assert_same_training(applied, run([], net(Unequal, **options, lr=result.lr_scaled), loader(found)))
    assert found <= 320  # never more than the samples of one rank
    free = scaler()
    run([free], net())
    assert free.optimal_batch_size == 320


def classes() -> None:
    """A step of both processes shows the classes together."""
    callback = scaler(
        objective="throughput",
        min_per_class=50,
        limits={**LIMITS, "within": 0.9},
        init_val=4,
    )
    run([callback], net())
    assert callback.optimal_batch_size == 75
    effective = scaler(effective_batch_size=128, max_val=16)
    assert run([effective], net()).trainer.accumulate_grad_batches == 4


def with_sam() -> None:
    """SAM acts in the trials, and does not exchange its first gradient in a step that one process may leave."""
    callback = scaler()
    run([callback, SAM(sync_perturbation=True)], net(Unequal), accumulate_grad_batches=2)
    assert callback.optimal_batch_size is not None
    assert 95 <= callback.optimal_batch_size <= 100


def joint() -> None:
    """A static graph wants every process in every step: sizes are predicted from safe ones, and none runs out."""
    callback = scaler(max_val=64)
    strategy = DDPStrategy(process_group_backend="gloo", static_graph=True)
    applied = run([callback], net(dropout=0.3), strategy=strategy)
    assert callback.optimal_batch_size == 64
    assert callback.result is not None
    again = DDPStrategy(process_group_backend="gloo", static_graph=True)
    by_hand = run([], net(dropout=0.3, lr=callback.result.lr_scaled), loader(64), strategy=again)
    assert_same_training(applied, by_hand)


def fsdp2() -> None:
    """Sharded weights: no trace, the values by hand, the same on both."""

    def fit(callbacks: list[Any], batch_size: int = 16, **module: Any) -> list[torch.Tensor]:
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
        pl.seed_everything(1)
        trainer = pl.Trainer(
            accelerator="cpu", devices=2, max_epochs=2, strategy=strategy, callbacks=callbacks, logger=False,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip
        sharded = Sharded(**module)
        trainer.fit(sharded, loader(batch_size), loader())
        return [parameter.to_local().detach().clone() for parameter in sharded.parameters()]

    without = fit([])
    assert_identical(fit([scaler(update_attr=False, max_val=64)]), without, "shards")
    active = scaler(max_val=64)
    applied = fit([active])
    assert active.optimal_batch_size == 64
    assert same_on_both_ranks(active.optimal_batch_size)
    assert active.result is not None
    assert_identical(applied, fit([], batch_size=64, lr=active.result.lr_scaled), "shards")


class FailsOnOneRank(Net):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_rank == 1 and len(batch[0]) == 32:
            raise ValueError("a bug on one rank")
        return super().training_step(batch, batch_idx)


def one_rank_fails() -> None:
    run([scaler()], net(FailsOnOneRank))


def nothing_fits() -> None:
    """Every process says so; none waits."""

    class None_(Net):  # noqa: N801
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if self.global_rank == 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().training_step(batch, batch_idx)

    with pytest.raises(MisconfigurationException, match="Expected a batch of 2 samples to fit"):
        run([scaler()], net(None_))
