"""``BatchSizeScaler.find(..., stage=...)`` finds the batch size of an evaluation outside of the call."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from lightning_hp import BatchSizeScaler
from tests.callbacks.test_find_and_set import net, trainer_of
from tests.training import Net, Samples

STAGES = ("validate", "test", "predict")


class Sizes(Net):
    """Notes the size of each batch of an evaluation, and runs out of memory above 40 samples."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sizes: list[int] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.sizes.append(len(batch[0]))
        if len(batch[0]) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.log("mean", self(batch[0]).mean(), batch_size=len(batch[0]))

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        self.sizes.append(len(batch[0]))
        if len(batch[0]) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self(batch[0])


class Data(pl.LightningDataModule):
    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.batch_size = batch_size

    def val_dataloader(self) -> Any:
        return DataLoader(Samples(), batch_size=self.batch_size)

    test_dataloader = predict_dataloader = train_dataloader = val_dataloader


class Half(pl.Callback):
    """Halves the features: the search has to call it, and nothing else may."""

    def __init__(self) -> None:
        self.calls = 0

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.calls += 1
        batch[0].mul_(0.5)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start


def largest(**kwargs: Any) -> BatchSizeScaler:
    return BatchSizeScaler(objective="memory", margin=0.0, **kwargs)


@pytest.mark.parametrize("stage", STAGES)
def test_it_is_the_size_that_the_callback_finds_in_the_call_and_leaves_no_trace(stage: Any) -> None:
    trainer, module, half = trainer_of(limit_val_batches=1.0), net(Sizes), Half()
    trainer.callbacks.append(half)
    data = DataLoader(Samples(), batch_size=4)
    torch.manual_seed(3)
    before, weights = torch.get_rng_state(), [parameter.clone() for parameter in module.parameters()]
    result = largest().find(trainer, module, data, stage=stage)
    assert 39 <= result.batch_size <= 40
    assert result.batch_size_used == 4
    assert (module.sizes, half.calls, module.training) == ([], 0, True)
    assert torch.equal(before, torch.get_rng_state())
    assert all(map(torch.equal, weights, module.parameters()))
    getattr(trainer, stage)(module, data)
    assert module.sizes == [4] * 24
    assert half.calls == 24
    inside, other = largest(), net(Sizes)
    getattr(trainer_of(limit_val_batches=1.0, callbacks=[inside, Half()]), stage)(other, data)
    assert inside.optimal_batch_size == result.batch_size


@pytest.mark.parametrize("is_positional", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_it_is_set_where_the_loaders_read_it(stage: Any, is_positional: bool) -> None:
    data, module, scaler = Data(), net(Sizes), largest(max_val=32)
    trainer = trainer_of(limit_val_batches=1.0)
    given: dict[str, Any] = {"train_dataloaders": data} if is_positional else {"datamodule": data}
    result = scaler.find(trainer, module, **given, update_attr=True, stage=stage)
    assert data.batch_size == result.batch_size == result.batch_size_used == 32
    assert scaler.state_dict()["applied"] == {}  # a training has nothing to set again
    assert module.lr == 0.05
    getattr(trainer, stage)(module, datamodule=data)
    assert module.sizes == [32] * 3


def test_what_cannot_be_found_or_set_is_refused() -> None:
    module, data = net(Sizes), DataLoader(Samples(), batch_size=4)
    trainer = trainer_of(limit_val_batches=1.0)
    with pytest.raises(MisconfigurationException, match="batch size to set, but got one that is kept in the loaders"):
        largest().find(trainer, module, data, update_attr=True, stage="test")
    with pytest.raises(MisconfigurationException, match="batches of `predict` to rehearse, but got `fast_dev_run`"):
        largest().find(trainer_of(fast_dev_run=True), module, data, stage="predict")
    with pytest.raises(ValueError, match="`stage` to be one of 'fit', 'validate', 'test', 'predict', but got 'train'"):
        largest().find(trainer, module, data, stage="train")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`model` to be a LightningModule"):
        largest().find(trainer, torch.nn.Linear(1, 1), data, stage="test")  # type: ignore[arg-type]
