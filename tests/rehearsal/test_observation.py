"""Callbacks that declare nothing act in a rehearsal if one step shows that they shape it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_hp import BatchSizeScaler, LRFinder
from lightning_hp.rehearsal import Rehearsal
from tests.callbacks.contract import loader
from tests.training import Net, acting_in, assert_same_training, train

MEAN, SCALE = 40.0, 25.0


class Linear(pl.LightningModule):
    """A network on features that are far from normalised."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr = lr
        torch.manual_seed(2)
        self.layer = nn.Linear(4, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class BringsItsPreprocessor(Linear):
    def configure_callbacks(self) -> Any:
        return [Replaces()]


class InPlace(pl.Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        batch[0].sub_(MEAN).div_(SCALE)


class Replaces(pl.Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        batch[0] = (batch[0] - MEAN) / SCALE


class ByData(pl.Callback):
    """Torch counts no version of such a write."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        batch[0].data.copy_((batch[0] - MEAN) / SCALE)


def raw_samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(96, 4, generator=generator)
    return features * SCALE + MEAN, features[:, :3].argmax(1)


def raw_loader() -> Any:
    return DataLoader(TensorDataset(*raw_samples()), batch_size=16)


def quiet(callbacks: list[Any], max_epochs: int = 3) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=max_epochs,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )


def losses_by_hand(lrs: Any, temperature: float = 1.0) -> list[float]:
    module, losses = Linear(), []
    batches = list(raw_loader())
    for index, lr in enumerate(lrs):
        features, labels = batches[index % len(batches)]
        loss = nn.functional.cross_entropy(module.layer((features - MEAN) / SCALE / temperature), labels)
        module.zero_grad()
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for parameter in module.parameters():
                parameter -= lr * parameter.grad
    return losses


@pytest.mark.parametrize(
    ("make_module", "callbacks"),
    [
        (Linear, [InPlace]),
        (Linear, [Replaces]),
        (Linear, [ByData]),
        (Linear, [lambda: LambdaCallback(on_train_batch_start=InPlace().on_train_batch_start)]),
        (BringsItsPreprocessor, []),
    ],
    ids=["in_place", "replaces", "by_data", "lambda", "of_the_module"],
)
@pytest.mark.parametrize("is_found_outside", [False, True], ids=["fit", "find"])
def test_the_losses_of_a_sweep_are_those_of_a_loop_with_the_preprocessor(
    make_module: Callable[[], Any], callbacks: list[Any], is_found_outside: bool
) -> None:
    finder = LRFinder(1e-3, 300.0, 40, suggestion="fall", num_repeats=1, zoom=False, update_attr=False)
    with_it = [make() for make in callbacks]
    if is_found_outside:
        finder.find(quiet(with_it), make_module(), raw_loader())
    else:
        quiet([finder, *with_it]).fit(make_module(), raw_loader())
    result = finder.result
    assert result is not None
    assert list(result.losses[0]) == pytest.approx(losses_by_hand(result.lrs), rel=2e-4)


class Settings:
    """A configuration object of the user."""

    temperature = 1.0


class Samples(Dataset):
    """Raw samples, divided by a temperature."""

    def __init__(self) -> None:
        self.features, self.labels = raw_samples()
        self.temperature = 1.0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return (self.features[index] - MEAN) / SCALE / self.temperature, self.labels[index]


class Tempered(Linear):
    """Divides its features by a temperature that it keeps in several places."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"temperature": 1.0})
        self.settings, self.table = Settings(), {"temperatures": [1.0]}
        self.temperature, self.tensor = 1.0, torch.ones(())
        self.layer.temperature = 1.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        places = self.hparams["temperature"], self.settings.temperature, *self.table["temperatures"]
        factor = torch.tensor([*places, self.temperature, self.tensor, self.layer.temperature]).prod()
        return nn.functional.cross_entropy(self.layer(batch[0] / factor), batch[1])


def set_dataset(trainer: Any, pl_module: Any) -> None:
    trainer.train_dataloader.dataset.temperature = 4.0


WRITES = {
    "attribute": lambda _, module: setattr(module, "temperature", 4.0),
    "hparams": lambda _, module: module.hparams.update(temperature=4.0),
    "object": lambda _, module: setattr(module.settings, "temperature", 4.0),
    "container": lambda _, module: module.table["temperatures"].__setitem__(0, 4.0),
    "tensor": lambda _, module: module.tensor.fill_(4.0),
    "submodule": lambda _, module: setattr(module.layer, "temperature", 4.0),
    "dataset": lambda trainer, _: setattr(trainer.train_dataloader.dataset, "temperature", 4.0),
}


@pytest.mark.parametrize(
    ("place", "hook"),
    [
        (place, hook)
        for place in WRITES
        for hook in ("on_train_start", "on_train_epoch_start", "on_train_batch_start")
        if (place, hook) != ("dataset", "on_train_batch_start")  # the first batch exists before it
    ],
)
def test_a_callback_that_sets_what_a_step_reads_acts(place: str, hook: str) -> None:
    """The losses of a sweep are those of a loop by hand at that temperature."""
    finder = LRFinder(1e-3, 300.0, 40, suggestion="fall", num_repeats=1, zoom=False, update_attr=False)
    sets = LambdaCallback(**{hook: lambda trainer, module, *_: WRITES[place](trainer, module)})
    quiet([finder, sets], max_epochs=7).fit(Tempered(), DataLoader(Samples(), batch_size=16))
    result = finder.result
    assert result is not None
    assert list(result.losses[0]) == pytest.approx(losses_by_hand(result.lrs, 4.0), rel=2e-4)


class LogsOnly(pl.Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.log("start", 1.0)
        self.seen = batch_idx


@pytest.mark.parametrize("make_finder", [LRFinder, BatchSizeScaler])
def test_a_search_with_an_observed_preprocessor_leaves_no_trace(make_finder: Any) -> None:
    class Shifts(pl.Callback):
        calls = 0

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.calls += 1
            batch[0] = batch[0] * 2 + torch.rand(1)

    runs = []
    for finders in ([], [make_finder(update_attr=False)]):
        torch.manual_seed(0)
        shifts = Shifts()
        runs.append(train(Net(dropout=0.2), [shifts, *finders], loader(shuffle=True), max_epochs=2))
        assert shifts.calls == 12
    assert_same_training(*runs)


class ZeroesGradients(pl.Callback):
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        for parameter in pl_module.parameters():
            parameter.grad.zero_()


class Freezes(pl.Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.requires_grad_(False)
        pl_module.body.requires_grad_(True)


class KeepsWeights(pl.Callback):
    def __init__(self) -> None:
        self.weights: list[Tensor] | None = None

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        for parameter in pl_module.parameters():
            parameter.data.fill_(0.5)


class Declines(ZeroesGradients):
    changes_gradients = False


class Watches(pl.Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        trainer.save_checkpoint("never_written.ckpt")

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        pass


class NotReady(pl.Callback):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.factor = 1.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        batch[0] = batch[0] * self.factor


class HoldsAnIterator(ZeroesGradients):
    def __init__(self) -> None:
        self.factors = iter([1.0, 2.0])


class Clips(pl.Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.gradient_clip_val = 1e-30


class Decays(pl.Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.optimizers[0].param_groups[0]["weight_decay"] = 0.5


class SetsTheRate(pl.Callback):
    """The rehearsal sets the rates of its steps itself."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.optimizers[0].param_groups[0]["lr"] = 0.5


class Stops(pl.Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = True


class Looks(pl.Callback):
    """Rehearses one step and keeps which weights it moved, and which callbacks acted."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        before = copy.deepcopy(pl_module.head.weight)
        with Rehearsal(trainer, pl_module) as rehearsal:
            self.acting = acting_in(trainer)
            rehearsal.step()
            self.head_moved = not torch.equal(before, pl_module.head.weight)


@pytest.mark.parametrize(
    ("callback", "acts", "message"),
    [
        (ZeroesGradients, True, "ZeroesGradients acts in the rehearsed steps, since it shapes a step in `on_after_b"),
        (Freezes, True, "Freezes acts in the rehearsed steps, since it shapes a step in `on_train_start`"),
        (KeepsWeights, True, "KeepsWeights acts in the rehearsed steps, since it shapes a step in `on_before_zero_"),
        (Clips, True, "Clips acts in the rehearsed steps, since it shapes a step in `on_train_start`"),
        (Decays, True, "Decays acts in the rehearsed steps, since it shapes a step in `on_train_epoch_start`"),
        (SetsTheRate, False, "SetsTheRate did not act: no change in the observed steps"),
        (Stops, False, "Stops did not act: no change in the observed steps"),
        (Declines, False, ""),
        (Watches, False, "Watches did not act: no change in the observed steps"),
        (HoldsAnIterator, False, "HoldsAnIterator does not act in the rehearsed steps, since it holds what cannot"),
        (LogsOnly, False, "LogsOnly did not act: no change in the observed steps"),
        (NotReady, False, "NotReady does not act in the rehearsed steps, since its hooks raised AttributeError"),
    ],
)
def test_what_a_callback_does_in_one_step_decides(
    callback: Any, acts: bool, message: str, caplog: pytest.LogCaptureFixture, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    looks = Looks()
    with caplog.at_level("INFO"):
        train(Net(), [looks, callback()], loader(), max_epochs=1, limit_train_batches=1)
    assert (callback.__name__ in looks.acting) == acts
    assert looks.head_moved == (callback not in (ZeroesGradients, Freezes, Clips))
    lines = [record.message for record in caplog.records if callback.__name__ in record.message]
    assert len(lines) == bool(message)
    assert all(message in line for line in lines)
