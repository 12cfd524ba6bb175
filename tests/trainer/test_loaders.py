"""Loaders of a Trainer: copies with another batch size, and what a loader says of its samples."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.utilities import CombinedLoader
from pytorch_lightning.utilities.data import _update_dataloader
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, TensorDataset

from lightning_hp.trainer import batch_size_of, is_resizable, request_loaders, resize_loaders, samples_of
from tests.training import Net, train


class InHook(Net):
    """Lightning records the arguments of a loader that is built in a hook."""

    make: Any = None

    def train_dataloader(self) -> DataLoader:
        return self.make()


def rebuilt(loader: DataLoader) -> DataLoader:
    """As Lightning builds it again to insert a distributed sampler."""
    return _update_dataloader(loader, SequentialSampler(range(40)))


class OwnLoader(DataLoader):
    """A signature that differs from that of its base class."""

    def __init__(self, data: Any, size: int, batch_size: int = 5, **kwargs: Any) -> None:
        super().__init__(data, batch_size=batch_size, **kwargs)
        self.size = size


class OwnBatches(BatchSampler):
    """A signature that differs from that of its base class."""

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
def test_a_resized_loader_stays_resized_when_lightning_builds_it_again(make: Any) -> None:
    def look(trainer: Any, module: pl.LightningModule) -> DataLoader:
        made = request_loaders(trainer, trainer.fit_loop._data_source)
        return rebuilt(resize_loaders(made, 8, batch_size_of(made) or 0))

    loader = at_start_quietly(look, make)
    assert [len(batch[0]) for batch in loader] == [8] * 5
    assert getattr(loader.batch_sampler, "mark", "mine") == "mine"


def test_a_resized_loader_that_was_given_to_fit_stays_resized_too() -> None:
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
        train(module, [LambdaCallback(on_fit_start=act)])
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
        (DataLoader(DATA, batch_size=None, sampler=BatchSampler(SequentialSampler(DATA), 8, False)), 40, 8),
        ([1, 2, 3], None, None),
    ],
)
def test_samples_and_batch_size_of_a_loader(loader: Any, samples: int | None, size: int | None) -> None:
    assert samples_of(loader) == samples
    assert batch_size_of(loader) == size
    assert is_resizable(loader) == (size is not None)


def test_nested_loaders_keep_their_structure_and_their_proportions() -> None:
    nest = {"a": DataLoader(DATA, 4), "b": [DataLoader(DATA, 2), DataLoader(DATA, 8)]}
    resized = resize_loaders(nest, 6, unit=4)
    assert [resized["a"].batch_size, *(one.batch_size for one in resized["b"])] == [6, 3, 12]
    combined = resize_loaders(CombinedLoader(nest, "min_size"), 6, unit=4)
    assert combined._mode == "min_size"
    assert combined.iterables["b"][1].batch_size == 12
    assert nest["a"].batch_size == 4
