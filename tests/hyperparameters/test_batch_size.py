"""Where a batch size lives, and loaders of another size."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from pytorch_lightning.utilities.data import _update_dataloader
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, TensorDataset

from lightning_hp.hyperparameters import BatchSize
from lightning_hp.trainer import batch_size_of, is_resizable, request_loaders, resize_loaders, samples_of
from tests.training import Net, Samples, train


class At(pl.Callback):
    """Does something where a training begins."""

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
    """Its own loader; `batch_size` and `hparams.batch_size` may say different things."""

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


def test_two_that_are_both_followed_are_refused() -> None:
    class Both(Hook):
        def train_dataloader(self) -> list[DataLoader]:
            return [DataLoader(Samples(96), batch_size=size) for size in (self.hparams.batch_size, self.batch_size)]

    with pytest.raises(MisconfigurationException, match="got two that the loaders follow"):
        at_start(located, Both(16, other=8))


def test_looking_leaves_the_dice_and_the_module_alone() -> None:
    class Dice(Hook):
        def train_dataloader(self) -> DataLoader:
            self.built = getattr(self, "built", 0) + 1
            return DataLoader(Samples(96), batch_size=self.hparams.batch_size, sampler=torch.randperm(96).tolist())

    def look(trainer: pl.Trainer, module: Any) -> bool:
        before = torch.get_rng_state()
        BatchSize.locate(trainer, module)
        assert torch.equal(before, torch.get_rng_state())
        return hasattr(module, "built")

    assert not at_start(look, Dice())


def test_the_hook_is_asked_for_other_loaders_and_they_come_resized_where_it_does_not_follow() -> None:
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


def test_loaders_that_were_built_already_are_built_anew_without_touching_the_dice() -> None:
    """`estimated_stepping_batches` in `configure_optimizers` has them built before."""

    def apply(trainer: Any, module: pl.LightningModule) -> tuple[int, bool]:
        assert trainer.fit_loop._combined_loader is not None
        before = torch.get_rng_state()
        BatchSize.locate(trainer, module).apply(24)
        return trainer.num_training_batches, torch.equal(before, torch.get_rng_state())

    assert at_start(apply, Net(scheduler="one_cycle"), DataLoader(Samples(96), 16, shuffle=True)) == (4, True)


def rebuilt(loader: DataLoader) -> DataLoader:
    """As Lightning builds it anew to put a distributed sampler in."""
    return _update_dataloader(loader, SequentialSampler(range(40)))


class InHook(Hook):
    """Lightning remembers the arguments of what is made in a hook."""

    make: Any = None

    def train_dataloader(self) -> DataLoader:
        return self.make()


class OwnLoader(DataLoader):
    """With a signature of its own."""

    def __init__(self, data: Any, size: int, batch_size: int = 5, **kwargs: Any) -> None:
        super().__init__(data, batch_size=batch_size, **kwargs)
        self.size = size


class OwnBatches(BatchSampler):
    """With a signature of its own."""

    def __init__(self, sampler: Any, mark: str, batch_size: int, drop_last: bool = False) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.mark = mark


DATA = TensorDataset(torch.arange(40))


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(DATA, 4),
        lambda: DataLoader(DATA, batch_size=4, shuffle=True, drop_last=True),
        lambda: DataLoader(DATA),
        lambda: OwnLoader(DATA, 3),
        lambda: OwnLoader(DATA, 3, 4),
        lambda: DataLoader(DATA, batch_sampler=OwnBatches(SequentialSampler(DATA), "mine", 4)),
        lambda: DataLoader(DATA, batch_sampler=OwnBatches(SequentialSampler(DATA), mark="mine", batch_size=4)),
    ],
)
def test_a_resized_loader_stays_resized_when_lightning_builds_it_anew(make: Any) -> None:
    def look(trainer: Any, module: pl.LightningModule) -> DataLoader:
        made = request_loaders(trainer, trainer.fit_loop._data_source)
        return rebuilt(resize_loaders(made, 8, batch_size_of(made) or 0))

    loader = at_start_quietly(look, make)
    assert [len(batch[0]) for batch in loader] == [8] * 5
    assert getattr(loader.batch_sampler, "mark", "mine") == "mine"


def test_a_resized_loader_that_was_given_stays_resized_too() -> None:
    for given in (DataLoader(DATA, 4), DataLoader(DATA, batch_size=4, shuffle=True)):
        assert [len(batch[0]) for batch in rebuilt(resize_loaders(given, 8, 4))] == [8] * 5


def at_start_quietly(look: Any, make: Any) -> Any:
    class Stop(Exception):  # noqa: N818
        pass

    def act(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        found.append(look(trainer, module))
        raise Stop

    found: list[Any] = []
    module = InHook()
    module.make = make
    with pytest.raises(Stop):
        train(module, [At(act)])
    return found[0]


class Endless(IterableDataset):
    """A stream."""

    def __iter__(self) -> Any:
        while True:
            yield torch.zeros(1)


@pytest.mark.parametrize(
    ("loader", "samples", "size"),
    [
        (DataLoader(DATA, 4), 40, 4),
        (DataLoader(DATA, 7, drop_last=True), 40, 7),
        (DataLoader(DATA, 4, sampler=SequentialSampler(range(12))), 12, 4),
        (DataLoader(DATA, batch_sampler=OwnBatches(SequentialSampler(DATA), "mine", 6)), 40, 6),
        (DataLoader(Endless(), 4), None, 4),
        ([1, 2, 3], None, None),
    ],
)
def test_how_many_samples_a_loader_draws(loader: Any, samples: int | None, size: int | None) -> None:
    assert samples_of(loader) == samples
    assert batch_size_of(loader) == size
    assert is_resizable(loader) == (size is not None)


def test_a_nest_keeps_its_shape_and_its_proportions() -> None:
    nest = {"a": DataLoader(DATA, 4), "b": [DataLoader(DATA, 2), DataLoader(DATA, 8)]}
    resized = resize_loaders(nest, 6, unit=4)
    assert [resized["a"].batch_size, *(one.batch_size for one in resized["b"])] == [6, 3, 12]
    combined = resize_loaders(CombinedLoader(nest, "min_size"), 6, unit=4)
    assert combined._mode == "min_size"
    assert combined.iterables["b"][1].batch_size == 12
    assert nest["a"].batch_size == 4
