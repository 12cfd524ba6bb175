"""In rehearsed steps the Trainer shows what the user has put into it, and nothing that a step does there stays."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from lightning.pytorch.callbacks import progress as lightning_progress
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, Timer, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.profilers import SimpleProfiler
from torch.utils.data import DataLoader

from lightning_hp import SAM, BatchSizeScaler, GradientNoiseScale, LossLandscape, LRFinder
from lightning_hp.rehearsal import Rehearsal, is_rehearsal
from lightning_hp.trainer.muted import MutedLogger
from lightning_hp.trainer.stand_ins import MutedCallback
from tests.lightning_net import LightningNet
from tests.training import Net, NetSteps, Samples

FEW = {"min_steps_per_epoch": 1, "min_training_steps": 1, "min_step_share": 1e-9}


class Notes(pl.Callback):
    """The user's own: it is written by the steps, and it never acts."""

    start = 2

    def __init__(self) -> None:
        self.weights, self.table, self.losses = torch.ones(3), np.zeros(2), [0.5]
        self.count, self.calls, self.hooks = 0, {"weight": 0}, 0

    def weight(self, step: int) -> float:
        self.calls["weight"] += 1
        self.count += 1
        return self.start / (step + 1)

    def on_train_batch_end(self, *args: Any) -> None:
        self.hooks += 1

    def values(self) -> str:
        return repr({name: value for name, value in vars(self).items() if name not in ("hooks", "log", "log_dict")})


def finder(**kwargs: Any) -> LRFinder:
    options = {"min_lr": 1e-4, "num_training_steps": 25, "num_repeats": 1, "zoom": False, "suggestion": "steepest"}
    return LRFinder(**{**options, "update_attr": False, **kwargs})


def scaler() -> BatchSizeScaler:
    return BatchSizeScaler(min_per_class=0, max_val=32, update_attr=False, steps_per_trial=2, limits=FEW)


def noise() -> GradientNoiseScale:
    return GradientNoiseScale(milestones=(1,), num_training_steps=8, num_micro_batches=2)


TUNERS: dict[str, Callable[[], Any]] = {
    "scaler": scaler,
    "finder": finder,
    "finder in the middle": lambda: finder(milestones=(1,)),
    "noise scale in the middle": noise,
}


class Reads(NetSteps):
    """Reads in every step what a Trainer offers."""

    in_rehearsal: Callable[[Any], None]
    outside = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if is_rehearsal(self.trainer):
            self.in_rehearsal(self.trainer)
        else:
            self.outside += 1
        return super().training_step(batch, batch_idx)


def reads(package: Any, in_rehearsal: Callable[[Any], None]) -> Any:
    module = PytorchReads() if package is pl else LightningReads()
    module.in_rehearsal = in_rehearsal  # type: ignore[assignment]
    return module


class PytorchReads(Reads, Net):
    pass


class LightningReads(Reads, LightningNet):
    pass


def fit(package: Any, tuner: Any, module: Any, callbacks: list[Any], tmp_path: Any, **kwargs: Any) -> Any:
    trainer = package.Trainer(
        max_epochs=2, callbacks=[tuner, *callbacks], accelerator="cpu", default_root_dir=tmp_path, log_every_n_steps=1,
        enable_model_summary=False, num_sanity_val_steps=0, **{"logger": False, **kwargs},
    )  # fmt: skip
    data = DataLoader(Samples(96), 16, shuffle=True)
    trainer.fit(module, data, DataLoader(Samples(32), 16))
    return trainer


@pytest.mark.parametrize(
    ("package", "name"), [*((pl, name) for name in TUNERS), (lightning.pytorch, "finder in the middle")]
)
@pytest.mark.filterwarnings("ignore:.*learning rate stays", "ignore:.*The .(train|val)_dataloader")
def test_a_step_reads_what_the_user_has_put_into_the_trainer(package: Any, name: str, tmp_path: Any) -> None:
    middle = "middle" in name
    own = package.callbacks
    stopping = own.EarlyStopping("val_loss", patience=9)
    checkpoint, bar, timer = own.ModelCheckpoint(monitor="val_loss"), own.TQDMProgressBar(), own.Timer("01:00:00:00")
    profiler = package.profilers.SimpleProfiler()
    seen: list[dict[str, Any]] = []

    def look(trainer: Any) -> None:
        assert isinstance(trainer.checkpoint_callback, own.ModelCheckpoint)
        assert isinstance(trainer.early_stopping_callback, own.EarlyStopping)
        assert isinstance(trainer.progress_bar_callback, own.TQDMProgressBar)
        assert len(trainer.checkpoint_callbacks) == len(trainer.early_stopping_callbacks) == 1
        assert trainer.progress_bar_callback == bar
        assert [trainer.callbacks.count(one) for one in (stopping, checkpoint, bar, timer)] == [1, 1, 1, 1]
        assert trainer.callbacks.index(stopping) < trainer.callbacks.index(checkpoint)
        assert isinstance(trainer.profiler, package.profilers.SimpleProfiler)
        (found,) = [one for one in trainer.callbacks if isinstance(one, own.Timer)]
        assert 0 < found.time_remaining() < 86400 + 1
        with trainer.profiler.profile("of a step"):
            assert trainer.progress_bar_callback.refresh_rate == 1
        trainer.early_stopping_callback.wait_count += 1
        trainer.checkpoint_callback.best_k_models["other"] = 1.0
        assert isinstance(trainer.train_dataloader, DataLoader)
        assert len(list(trainer.val_dataloaders)) == trainer.num_val_batches[0] == 2
        seen.append(
            {
                "path": trainer.checkpoint_callback.best_model_path,
                "best": trainer.early_stopping_callback.best_score,
                "metrics": dict(trainer.callback_metrics),
            }
        )

    module = reads(package, look)
    trainer = fit(package, TUNERS[name](), module, [stopping, checkpoint, bar, timer], tmp_path, profiler=profiler)
    assert len(seen) > 3
    assert module.outside == 12
    assert stopping.wait_count < 2
    assert "other" not in checkpoint.best_k_models
    assert "of a step" not in profiler.recorded_durations
    assert trainer.callbacks[-1] is checkpoint
    assert trainer.progress_bar_callback is bar
    assert trainer.profiler is profiler
    if middle:
        assert all(one["path"].endswith("step=6.ckpt") and "val_loss" in one["metrics"] for one in seen)
        assert all(torch.isfinite(one["best"]) for one in seen)


@pytest.mark.parametrize("search", ["finder", "scaler", "validate"])
@pytest.mark.filterwarnings("ignore:.*The .(train|val)_dataloader", "ignore:You defined a .validation_step")
def test_a_step_of_find_reads_the_same(search: str, tmp_path: Any) -> None:
    callbacks = [EarlyStopping("val_loss"), ModelCheckpoint(), TQDMProgressBar(), Timer(), Notes()]
    kinds = [type(callback) for callback in callbacks]
    seen: list[list[bool]] = []

    class Evaluates(PytorchReads):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.in_rehearsal(self.trainer)
            super().validation_step(batch, batch_idx)

    def look(trainer: Any) -> None:
        trainer.early_stopping_callback.wait_count += 1
        assert trainer.checkpoint_callback.best_model_path == ""
        assert trainer.progress_bar_callback.refresh_rate == 1
        seen.append([any(isinstance(one, kind) for one in trainer.callbacks) for kind in kinds])

    module = Evaluates()
    module.in_rehearsal = look  # type: ignore[assignment]
    trainer = pl.Trainer(
        callbacks=callbacks, accelerator="cpu", default_root_dir=tmp_path, logger=False, max_epochs=2,
        enable_model_summary=False,
    )  # fmt: skip
    own = list(trainer.callbacks)
    data = DataLoader(Samples(96), 16)
    if search == "finder":
        finder().find(trainer, module, data)
    else:
        scaler().find(trainer, module, data, **({} if search == "scaler" else {"stage": "validate"}))
    assert len(seen) > 1
    assert all(map(all, seen))
    assert trainer.callbacks == own
    assert callbacks[0].wait_count == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("passes", "most"),
    [(lambda: SAM(rho=0.05), 12), (lambda: LossLandscape(1, resolution=3, num_samples=32, radii=[0.1]), 13)],
    ids=["second pass", "landscape"],
)
@pytest.mark.filterwarnings("ignore:.*The .(train|val)_dataloader")
def test_what_other_passes_write_into_a_callback_does_not_stay(
    passes: Callable[[], Any], most: int, tmp_path: Any
) -> None:
    notes, counts = Notes(), list[int]()

    class Counts(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert isinstance(self.trainer.progress_bar_callback, TQDMProgressBar)
            (found,) = [one for one in self.trainer.callbacks if isinstance(one, Notes)]
            assert found.weight(0) == 2
            counts.append(found.count)
            return super().training_step(batch, batch_idx)

    fit(pl, passes(), Counts(), [notes, TQDMProgressBar()], tmp_path, enable_checkpointing=False)
    assert notes.count == notes.calls["weight"] == 12
    assert max(counts) == most  # a second pass starts where the first did, a landscape where the training is
    assert len(counts) > 20


def test_the_methods_of_a_callback_give_what_they_give_in_the_training(tmp_path: Any) -> None:
    """They may write: each search starts from the values of the training."""
    notes, seen = Notes(), list[tuple[int, int]]()

    def look(trainer: Any) -> None:
        (found,) = [one for one in trainer.callbacks if isinstance(one, Notes)]
        seen.append((found.calls["weight"], found.count))
        assert found.weight(3) == 0.5
        found.losses.append(1.0)
        found.weights[0] += 1
        found.table[0] += 1
        assert len(found.losses) == found.weights[0] == found.count + 1

    class Twice(pl.Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            with Rehearsal(trainer, pl_module) as rehearsal:
                for _ in range(2):
                    rehearsal.step()
                    rehearsal.step()
                    rehearsal.rewind()

    before = notes.values()
    fit(pl, Twice(), reads(pl, look), [notes], tmp_path, enable_progress_bar=False)
    assert seen == [(0, 0), (1, 1)] * 2
    assert notes.values() == before
    assert notes.hooks == 12


class Writes(Net):
    """Writes in every step into a callback that it has a reference of."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.notes, self.kind = Notes(), kind
        self.own = [self.notes] if kind in ("attribute", "configured") else []

    def configure_callbacks(self) -> list[Any]:
        return self.own if self.kind == "configured" else []

    def take(self) -> None:
        self.own = [one for one in self.trainer.callbacks if isinstance(one, Notes)]

    def setup(self, stage: str) -> None:
        if self.kind == "setup":
            self.take()

    def on_train_start(self) -> None:
        if self.kind == "start":
            self.take()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (notes,) = self.own or GLOBAL
        notes.count += 1
        notes.losses.append(1.0)
        notes.weights += 1
        notes.table[0] += 1
        notes.calls[notes.count] = 1
        return super().training_step(batch, batch_idx)


GLOBAL: list[Notes] = []


@pytest.mark.parametrize(
    ("tuner", "kind"),
    [
        ("scaler", "attribute"), ("finder", "configured"), ("finder in the middle", "global"), ("finder", "setup"),
        ("noise scale in the middle", "attribute"), ("finder in the middle", "start"), ("second pass", "global"),
        ("second pass", "attribute"), ("landscape", "global"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*learning rate stays")
def test_what_a_step_writes_through_a_reference_of_its_own_does_not_stay(tuner: str, kind: str, tmp_path: Any) -> None:
    """The state is that of the same training without the search."""
    others = {
        "second pass": lambda: SAM(rho=0.05),
        "landscape": lambda: LossLandscape(1, resolution=3, num_samples=32, radii=[0.1]),
    }
    module = Writes(kind)
    GLOBAL[:] = [module.notes]
    listed = [module.notes] if kind in ("global", "setup", "start") else []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*dataloader")
        fit(pl, {**TUNERS, **others}[tuner](), module, listed, tmp_path, enable_progress_bar=False)
    GLOBAL.clear()
    notes = module.notes
    assert notes.count == notes.table[0] == len(notes.losses) - 1 == len(notes.calls) - 1 == 12
    assert notes.weights.tolist() == [13.0] * 3


class Holds(pl.Callback):
    """Holds what cannot be copied, and a thread that writes."""

    def __init__(self, path: Any) -> None:
        self.lock, self.lines = threading.Lock(), iter([1, 2, 3])
        self.file, self.beats, self.ends = path.open("w+"), list[int](), threading.Event()
        self.thread = threading.Thread(target=self.beat, daemon=True)
        self.thread.start()

    def beat(self) -> None:
        while not self.ends.is_set():
            self.beats.append(len(self.beats))
            self.file.write("x")
            self.ends.wait(0.001)


class HoldsNoThread(Holds):
    def __init__(self, path: Any) -> None:
        super().__init__(path)
        self.ends.set()
        self.thread.join()
        self.pipe = os.fdopen(os.pipe()[0])


@pytest.mark.filterwarnings(
    "ignore:.*learning rate stays", "ignore:.*The .(train|val)_dataloader", "ignore:.*swa", "ignore:.*ModelCheckpoint"
)
def test_no_callback_refuses_a_search_or_is_disturbed(tmp_path: Any) -> None:
    own = pl.callbacks
    thread, none = Holds(tmp_path / "a"), HoldsNoThread(tmp_path / "b")
    callbacks = [
        ModelCheckpoint(monitor="val_loss"), EarlyStopping("val_loss"), RichProgressBar(), own.LearningRateMonitor(),
        Timer(), own.StochasticWeightAveraging(1e-3, swa_epoch_start=1, annealing_epochs=1), own.DeviceStatsMonitor(),
        thread, none,
    ]  # fmt: skip
    try:
        tuner = finder(milestones=(0, 1))
        fit(pl, tuner, Net(), callbacks, tmp_path, logger=CSVLogger(tmp_path))
        assert tuner.results
        written = thread.beats[:]
        assert written == list(range(len(written)))
        assert none.lines is not None
        assert list(none.lines) == [1, 2, 3]
    finally:
        thread.ends.set()
        thread.thread.join()
        for one in (thread.file, none.file, none.pipe):
            one.close()


@pytest.mark.parametrize("package", [pl, lightning.pytorch], ids=lambda package: package.__name__)
def test_the_bar_of_rich_draws_in_the_middle(package: Any, tmp_path: Any) -> None:
    """Its thread does what is done here in each step, and would end with an error."""
    kind = RichProgressBar if package is pl else lightning_progress.RichProgressBar
    screen, drawn = io.StringIO(), list[bool]()
    bar = kind(refresh_rate=1, console_kwargs={"file": screen, "force_terminal": True})

    def draw(trainer: Any) -> None:
        bar.progress.refresh()
        drawn.append(bar.train_progress_bar_id == trainer.progress_bar_callback.train_progress_bar_id)

    module = reads(package, draw)
    fit(package, finder(milestones=(1,)), module, [bar], tmp_path, enable_checkpointing=False)
    assert len(drawn) > 10
    assert all(drawn)
    assert "Epoch 1/1" in screen.getvalue()


@pytest.mark.filterwarnings("ignore:.*learning rate stays", "ignore:.*The .(train|val)_dataloader")
def test_a_step_reads_the_experiment_of_a_logger(tmp_path: Any) -> None:
    paths = set()

    def look(trainer: Any) -> None:
        experiment = trainer.logger.experiment
        paths.update(str(Path(one) / "x") for one in (experiment.log_dir, experiment.get_logdir(), experiment))
        rows = trainer.logger.rows
        rows.append(1)
        del rows[0]
        while rows:
            rows.pop()
        assert experiment
        assert (len(rows), list(rows), 1 in rows, len(experiment.config.lr)) == (0, [], False, 0)
        with experiment.group("name") as group:
            group.add_scalar("loss", 1.0)

    logger = TensorBoardLogger(tmp_path, name="run", version=3)
    fit(pl, finder(), reads(pl, look), [], tmp_path, enable_progress_bar=False, logger=logger)
    assert paths == {str(tmp_path / "run" / "version_3" / "x")}
    assert os.fspath(MutedLogger(Logs()).experiment) == os.curdir


class Logs(Logger):
    """A logger without directories."""

    name, version = "logs", 0

    def log_metrics(self, metrics: Any, step: int | None = None) -> None: ...

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...


def test_what_stands_for_a_callback() -> None:
    original = Notes()
    callback = MutedCallback(original)
    assert isinstance(callback, Notes)
    assert callback == original == callback
    assert callback == MutedCallback(original) != Notes()
    assert len({callback, original}) == 1
    assert not isinstance(callback, (EarlyStopping, ModelCheckpoint, Timer, TQDMProgressBar, SimpleProfiler))
    assert callback.setup(None, None, stage="fit") is None
    assert callback.on_train_batch_end() is None
    assert callback.hooks == 0
    assert callback.state_key == "Notes"
    assert callback.state_dict() == {}
    with pytest.raises(AttributeError, match="colour"):
        print(callback.colour)
    assert not hasattr(callback, "__len__")
