"""``find(..., update_attr=True)`` sets what it found without a training; streams that cannot be started again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, IterableDataset

from lightning_hp import BatchSizeScaler, LRFinder
from tests.callbacks.contract import loader
from tests.training import Net, Samples, assert_same_training, train

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`")


class Data(pl.LightningDataModule):
    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        return DataLoader(Samples(), batch_size=self.batch_size)


class WithoutHome(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.25)


def net(kind: Any = Net, **kwargs: Any) -> Any:
    torch.manual_seed(5)
    return kind(**kwargs)


def trainer_of(**kwargs: Any) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        accelerator="cpu",
        **{"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0, **kwargs},
    )


def range_test(**kwargs: Any) -> LRFinder:
    return LRFinder(1e-4, 10.0, 70, suggestion="fall", num_repeats=1, zoom=False, **kwargs)


def scaler(**kwargs: Any) -> BatchSizeScaler:
    return BatchSizeScaler(objective="memory", max_val=8, limits={"min_training_steps": 1}, **kwargs)


def test_a_rate_that_find_sets_is_the_one_of_a_training_with_it_set_by_hand() -> None:
    model, finder = net(), range_test(update_attr=False)
    weights = [parameter.clone() for parameter in model.parameters()]
    found = finder.find(trainer_of(), model, loader(), update_attr=True)
    assert model.lr == model.hparams.lr == found.suggestion == found.lr_used != found.lr_before
    assert all(map(torch.equal, weights, model.parameters()))
    assert model.seen == []
    torch.manual_seed(1)
    with_it = train(model, [], loader(), max_epochs=1)
    by_hand = net(lr=found.suggestion)
    torch.manual_seed(1)
    assert_same_training(with_it, train(by_hand, [], loader(), max_epochs=1))


def test_without_the_argument_find_sets_nothing() -> None:
    model, finder = net(), range_test()
    assert finder.find(trainer_of(), model, loader()).lr_used == model.lr == 0.05
    assert finder.state_dict()["applied"] == {}


@pytest.mark.parametrize("is_positional", [False, True])
def test_a_batch_size_that_find_sets_is_in_the_datamodule_with_its_rate_and_is_scaled_once(is_positional: bool) -> None:
    model, data, trainer = net(), Data(), trainer_of()
    sources: Any = {"train_dataloaders": data} if is_positional else {"datamodule": data}
    for _ in range(2):
        found = scaler(lr_scaling="linear", min_per_class=0).find(trainer, model, **sources, update_attr=True)
        assert data.batch_size == data.hparams.batch_size == found.batch_size == found.batch_size_used == 8
        assert model.lr == pytest.approx(0.1)
    trainer.fit(model, datamodule=data)
    assert {len(indices) for indices in model.seen} == {8}


def test_accumulation_that_find_sets_is_in_the_trainer() -> None:
    model, data, trainer = net(), Data(), trainer_of()
    scaler(effective_batch_size=32, min_per_class=0).find(trainer, model, datamodule=data, update_attr=True)
    assert (data.batch_size, trainer.accumulate_grad_batches, model.lr) == (8, 4, 0.05)


@pytest.mark.parametrize(
    ("finder", "make_model", "message"),
    [
        (
            range_test,
            lambda: net(WithoutHome),
            "Expected a learning rate to set, but got one that is kept in the optim",
        ),
        (scaler, net, "Expected a batch size to set, but got one that is kept in the loaders alone"),
    ],
)
def test_a_value_that_no_attribute_keeps_is_refused_before_any_step(finder: Any, make_model: Any, message: str) -> None:
    model = make_model()
    with pytest.raises(MisconfigurationException, match=message):
        finder().find(trainer_of(), model, loader(), update_attr=True)
    assert model.seen == []


def test_a_warmup_and_a_wrong_kind_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match="Expected `warmup=False` for a `find` that sets"):
        scaler(warmup=True).find(trainer_of(), net(), datamodule=Data(), update_attr=True)
    with pytest.raises(TypeError, match="`update_attr` to be True or False, but got 'yes'"):
        range_test().find(trainer_of(), net(), loader(), update_attr="yes")  # type: ignore[arg-type]


class EndlessStream(IterableDataset):
    """Draws from an iterator that was made once, as streams of packages do."""

    def __init__(self) -> None:
        self.samples = self._draw()

    def _draw(self) -> Iterator[Any]:
        source, generator = Samples(), torch.Generator().manual_seed(0)
        while True:
            yield source[int(torch.randint(len(source), (), generator=generator))]

    def __iter__(self) -> Iterator[Any]:
        for sample in self.samples:  # noqa: UP028 - `yield from` would close it
            yield sample


class ClosedStream(EndlessStream):
    def __iter__(self) -> Iterator[Any]:
        yield from self.samples


@pytest.mark.parametrize("make", [range_test, lambda **kwargs: BatchSizeScaler(max_val=8, min_per_class=0, **kwargs)])
@pytest.mark.filterwarnings("ignore:LRFinder. the learning rate stays")
def test_an_endless_stream_needs_one_argument(make: Any) -> None:
    def stream() -> DataLoader:
        return DataLoader(EndlessStream(), batch_size=8)

    with pytest.raises(MisconfigurationException, match="set `may_consume_data=True`"):
        trainer_of(max_steps=20, callbacks=[make()]).fit(net(), stream())
    model, callback = net(), make(update_attr=False, may_consume_data=True)
    weights = [parameter.clone() for parameter in model.parameters()]
    found = callback.find(trainer_of(max_steps=20), model, stream())
    assert found is callback.result
    assert all(map(torch.equal, weights, model.parameters()))
    trainer = trainer_of(max_steps=20, callbacks=[callback])
    trainer.fit(model, stream())
    assert trainer.global_step == len(model.seen) == 20


def test_a_stream_that_ends_with_its_first_iterator_is_refused_before_any_step() -> None:
    model = net()
    with pytest.raises(MisconfigurationException, match="continues when the loader is iterated again"):
        range_test(may_consume_data=True).find(trainer_of(), model, DataLoader(ClosedStream(), batch_size=8))
    assert model.seen == []
