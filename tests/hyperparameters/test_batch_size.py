"""Where a batch size is kept, and loaders of another size."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.core.mixins.hparams_mixin import AttributeDict
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from lightning_hp.hyperparameters import BatchSize
from lightning_hp.trainer import batch_size_of
from tests.training import Net, Samples, train


class At(pl.Callback):
    """Calls a function at the start of a training."""

    def __init__(self, act: Any) -> None:
        self.act = act
        self.got: Any = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.got = self.act(trainer, pl_module)


def at_start(act: Any, module: pl.LightningModule, data: Any = None, **kwargs: Any) -> Any:
    here = At(act)
    train(module, [here], data, max_epochs=1, **kwargs)
    return here.got


class Hook(Net):
    """Builds its loader; `batch_size` and `hparams.batch_size` may differ."""

    def __init__(self, batch_size: int = 16, other: int | None = None) -> None:
        super().__init__()
        self.save_hyperparameters({"batch_size": batch_size})
        self.batch_size = batch_size if other is None else other

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Samples(96), batch_size=self.hparams.batch_size)


def located(trainer: pl.Trainer, module: pl.LightningModule) -> tuple[int, str]:
    size = BatchSize.locate(trainer, module)
    return size.value, str(size.home)


def test_two_places_that_agree_are_one_size() -> None:
    assert at_start(located, Hook()) == (16, "`model.batch_size` and `model.hparams.batch_size`")


def test_of_two_that_differ_it_is_the_one_that_the_loaders_follow() -> None:
    assert at_start(located, Hook(16, other=7)) == (16, "`model.hparams.batch_size`")


def test_hyperparameters_that_cannot_be_written_are_no_home_and_the_loaders_are_resized(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class ReadOnly(AttributeDict):
        def __setattr__(self, name: str, value: Any) -> None:
            raise RuntimeError("read-only")

        __setitem__ = __setattr__

    def act(trainer: pl.Trainer, module: pl.LightningModule) -> Any:
        size = BatchSize.locate(trainer, module)
        size.apply(32)
        return size.value, size.home

    module = Hook(16, other=3)
    module._hparams = ReadOnly(module.hparams)
    with caplog.at_level("INFO"):
        assert at_start(act, module) == (32, None)
    assert module.trainer.num_training_batches == 3
    assert module.hparams.batch_size == 16
    assert "`model.hparams.batch_size` cannot be written: it keeps its value, and another one is set in" in caplog.text


def test_two_that_are_both_followed_are_refused() -> None:
    class Both(Hook):
        def train_dataloader(self) -> list[DataLoader]:
            return [DataLoader(Samples(96), batch_size=size) for size in (self.hparams.batch_size, self.batch_size)]

    with pytest.raises(MisconfigurationException, match="got two that the loaders follow"):
        at_start(located, Both(16, other=8))


def test_locating_leaves_the_random_state_and_the_module_unchanged() -> None:
    class Random(Hook):
        def train_dataloader(self) -> DataLoader:
            self.built = getattr(self, "built", 0) + 1
            return DataLoader(Samples(96), batch_size=self.hparams.batch_size, sampler=torch.randperm(96).tolist())

    def look(trainer: pl.Trainer, module: Any) -> bool:
        before = torch.get_rng_state()
        BatchSize.locate(trainer, module)
        assert torch.equal(before, torch.get_rng_state())
        return hasattr(module, "built")

    assert not at_start(look, Random())


def test_the_hook_builds_loaders_of_another_size_or_its_loaders_are_resized() -> None:
    class Fixed(Hook):
        def train_dataloader(self) -> DataLoader:
            return DataLoader(Samples(96), batch_size=16)

    def sizes(trainer: pl.Trainer, module: pl.LightningModule) -> list[int | None]:
        size = BatchSize.locate(trainer, module)
        got = [batch_size_of(size.loaders(other)) for other in (3, 48)]
        size.apply(12)
        return [*got, size.value]

    assert at_start(sizes, Fixed()) == [3, 48, 12]
    assert at_start(sizes, Hook()) == [3, 48, 12]


def test_existing_loaders_are_built_anew_and_the_random_state_stays() -> None:
    """`estimated_stepping_batches` in `configure_optimizers` builds them earlier."""

    def apply(trainer: Any, module: pl.LightningModule) -> tuple[int, bool]:
        assert trainer.fit_loop._combined_loader is not None
        before = torch.get_rng_state()
        BatchSize.locate(trainer, module).apply(24)
        return trainer.num_training_batches, torch.equal(before, torch.get_rng_state())

    assert at_start(apply, Net(scheduler="one_cycle"), DataLoader(Samples(96), 16, shuffle=True)) == (4, True)


@pytest.mark.parametrize("batch_size", [None, "8", 8.0, True, [8], {}, object(), torch.tensor(8)])
def test_a_batch_size_of_a_wrong_type_is_refused(batch_size: Any) -> None:
    def apply(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        size = BatchSize.locate(trainer, module)
        with pytest.raises(TypeError, match="Expected `batch_size` to be an int >= 1"):
            size.apply(batch_size)
        with pytest.raises(TypeError, match="Expected `batch_size` to be an int >= 1"):
            size.loaders(batch_size)

    at_start(apply, Hook())


def test_a_numeric_str_is_a_batch_size() -> None:
    class Text(Hook):
        def train_dataloader(self) -> DataLoader:
            return DataLoader(Samples(96), batch_size=int(float(self.hparams.batch_size)))

    module = Text()
    module.batch_size = module.hparams.batch_size = "1.6e1"
    assert at_start(located, module) == (16, "`model.batch_size` and `model.hparams.batch_size`")
