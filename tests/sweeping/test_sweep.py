"""`sweep` from end to end: what is trained, recorded, continued and refused."""

from __future__ import annotations

import functools
import gc
import inspect
import os
import random
import signal
import threading
import time
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_hp import LRFinder, SweepError, SweepResult, sweep
from lightning_hp.functional.sweep import labels
from lightning_hp.sweeping.outcome import Outcome
from tests.forked import Forked
from tests.sweeping.common import SPACE, TRAINER, Scored, build, folders, loaders

OPTIONS: dict[str, Any] = {"monitor": "val_score", "mode": "max", "trainer": TRAINER, "logdir": None}


def run(**options: Any) -> SweepResult:
    arguments = {"build": build, "space": SPACE, **OPTIONS, **options}
    return sweep(arguments.pop("build"), arguments.pop("space"), **arguments)


class Counting:
    """A `build` that notes what it was asked for."""

    def __init__(self, inner: Any = build) -> None:
        self.asked: list[dict[str, Any]] = []
        self._inner = inner

    def __call__(self, settings: dict[str, Any]) -> Any:
        self.asked.append(dict(settings))
        return self._inner(settings)


def test_one_at_a_time_finds_the_best_and_trains_nothing_twice():
    counting = Counting()

    result = run(build=counting, seeds=2)

    assert result.best == result.recommended == {"a": 3, "b": 20}
    assert result.best_score == 0
    assert len(result.trials) == (4 + 3 - 1) * 2  # a=3, b=10 is in both subjects
    assert len(counting.asked) == len(result.trials) + 1  # and once before the first training
    assert list(result.effects) == ["b", "a"] or list(result.effects) == ["a", "b"]
    assert result.effects["a"].effect == pytest.approx(2)
    assert result.effects["b"].effect == pytest.approx(2)


def test_the_grid_agrees_with_a_loop():
    result = run(strategy="grid")

    expected = {(a, b): -abs(a - 3) - abs(b - 20) / 10 for a in SPACE["a"] for b in SPACE["b"]}
    found = {(trial.settings["a"], trial.settings["b"]): trial.score for trial in result.trials}
    assert found == pytest.approx(expected)


def test_a_sampler_and_refinement():
    result = run(strategy=optuna.samplers.TPESampler(seed=0), n_trials=6)
    assert len(result.trials) == 6

    fine = run(space={"a": [1, 5], "b": [10, 40]}, refine=6)
    stages = [trial.stage for trial in fine.trials]
    assert stages.count("refine") == 6
    assert fine.best_score > -2  # the best of the lists


def test_the_seed_is_set_as_by_lightning_and_the_random_state_of_the_user_stays(monkeypatch: pytest.MonkeyPatch):
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()

    result = run(monitor="draw", space={"a": [1], "b": [1]}, seeds=[3, 11])

    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert "PL_GLOBAL_SEED" not in os.environ
    drawn = []
    for seed in (3, 11):
        pl.seed_everything(seed, verbose=False)
        drawn.append(build({"a": 1, "b": 1})[0].draw)
    os.environ.pop("PL_GLOBAL_SEED")
    os.environ.pop("PL_SEED_WORKERS")
    assert [trial.score for trial in result.trials] == pytest.approx(drawn)


def test_a_second_call_trains_nothing_and_lists_may_grow(tmp_path: Path):
    storage = tmp_path / "sweep.db"
    counting = Counting()
    first = run(build=counting, storage=storage, refine=2)
    calls = len(counting.asked)

    again = run(build=counting, storage=storage, refine=2)
    assert again.trials == first.trials
    assert len(counting.asked) == calls + 1  # the build before the trainings

    grown = run(build=counting, storage=storage, space={"a": [1, 2, 3, 4, 5], "b": [10, 20, 40]}, seeds=2)
    assert {trial.number for trial in first.trials} <= {trial.number for trial in grown.trials}
    assert len({(*trial.settings.values(), trial.seed) for trial in grown.trials}) == len(grown.trials)
    assert {trial.settings["a"] for trial in grown.trials} >= {1, 2, 3, 4, 5}


def test_categories_may_grow(tmp_path: Path):
    def scored(settings: dict[str, Any]) -> Any:
        return Scored({"relu": 1.0, "gelu": 3.0, nn.Tanh: 2.0}[settings["act"]]), loaders()

    storage = tmp_path / "sweep.journal"
    first = run(build=scored, space={"act": ["relu", nn.Tanh]}, storage=storage)
    second = run(build=scored, space={"act": ["relu", nn.Tanh, "gelu"]}, storage=storage)

    assert first.best == {"act": nn.Tanh}
    assert second.best == {"act": "gelu"}
    assert [trial.score for trial in second.trials] == [1.0, 2.0, 3.0]
    assert second.study.best_params == {"act": "gelu"}


def test_a_subject_may_be_added_if_its_start_is_stated(tmp_path: Path):
    def either(settings: dict[str, Any]) -> Any:
        return Scored(settings["a"] + settings.get("b", 10) / 100), loaders()

    storage = tmp_path / "sweep.db"
    run(build=either, space={"a": [1, 2]}, storage=storage)

    result = run(build=either, space={"a": [1, 2], "b": [10, 20]}, start={"b": 10}, storage=storage)

    assert len(result.trials) == 3
    assert result.best == {"a": 2, "b": 20}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"monitor": "draw"}, "metric"),
        ({"mode": "min"}, "mode|directions"),
        ({"seeds": [7]}, "seeds"),
        ({"trainer": {**TRAINER, "max_epochs": 2}}, "Trainer arguments"),
        ({"build": lambda settings: (Scored(settings["a"] * settings["b"]), loaders())}, "code of `build`"),
    ],
)
def test_a_storage_of_another_experiment_is_refused(tmp_path: Path, changes: dict[str, Any], word: str):
    storage = tmp_path / "sweep.db"
    run(storage=storage, space={"a": [1], "b": [10]})
    counting = Counting()

    with pytest.raises(ValueError, match=word):
        run(storage=storage, space={"a": [1, 2], "b": [10]}, **changes)
    assert not counting.asked


def test_other_data_are_refused(tmp_path: Path):
    size = [8]

    def sized(settings: dict[str, Any]) -> Any:
        data = torch.utils.data.TensorDataset(torch.zeros(size[0], 2))
        return Scored(settings["a"]), (torch.utils.data.DataLoader(data), torch.utils.data.DataLoader(data))

    run(build=sized, space={"a": [1]}, storage=tmp_path / "sweep.db")
    size[0] = 9
    with pytest.raises(ValueError, match="the data is another"):
        run(build=sized, space={"a": [1]}, storage=tmp_path / "sweep.db")


def test_a_training_that_fails_is_recorded_and_made_again_by_the_next_call(tmp_path: Path, caplog: Any):
    broken = [True]

    def fragile(settings: dict[str, Any]) -> Any:
        if settings["a"] == 2 and broken[0]:
            raise RuntimeError("out of luck")
        return Scored(float("nan") if settings["a"] == 3 else settings["a"]), loaders()

    result = run(build=fragile, space={"a": [1, 2, 3, 4]}, storage=tmp_path / "s.db")

    reasons = {trial.settings["a"]: trial.reason for trial in result.trials}
    assert reasons == {1: None, 2: "RuntimeError: out of luck", 3: "val_score was nan", 4: None}
    assert result.best == {"a": 4}
    assert "a=2, seed 0, failed: RuntimeError: out of luck" in caplog.text
    assert "2 failed" in str(result)
    assert "a=2: its only training failed; the first one: RuntimeError: out of luck" in str(result)

    broken[0] = False
    again = run(build=fragile, space={"a": [1, 2, 3, 4]}, storage=tmp_path / "s.db")
    assert {trial.settings["a"]: trial.status for trial in again.trials}[2] == "complete"


def test_on_error_raise_stops_with_the_cause():
    def failing(settings: dict[str, Any]) -> Any:
        if settings["a"] == 2:
            raise RuntimeError("out of luck")
        return Scored(settings["a"]), loaders()

    with pytest.raises(SweepError, match=r"(?s)a=2, seed 0, failed: RuntimeError: out of luck.*Traceback"):
        run(build=failing, space={"a": [1, 2]}, on_error="raise")


def test_if_all_fail_the_reason_is_raised():
    def failing(settings: dict[str, Any]) -> Any:
        return Scored(float("inf") * settings["a"]), loaders()

    with pytest.raises(SweepError, match="All 2 trainings failed; the first one: val_score was inf"):
        run(build=failing, space={"a": [1, 2]})


def test_a_metric_that_is_not_logged_ends_the_sweep_with_what_is_logged():
    counting = Counting()
    with pytest.raises(SweepError, match="to log `acc`, but it logs draw, val_score"):
        run(build=counting, monitor="acc")
    assert len(counting.asked) == 2


def without_validation(settings: dict[str, Any]) -> Any:
    return Scored(settings["a"] + settings["b"]), loaders()[0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"build": 3}, TypeError, "a function of settings"),
        ({"build": lambda settings: Scored(settings["a"])}, ValueError, "does not read 'b'"),
        (
            {"build": lambda settings: (nn.Linear(settings["a"], settings["b"]), None)},
            TypeError,
            "LightningModule first",
        ),
        ({"build": without_validation}, ValueError, "validation data for `monitor='val_score'`"),
        ({"mode": "maximize"}, ValueError, "one of 'max', 'min'"),
        ({"strategy": "random"}, ValueError, "'one_at_a_time', 'grid'"),
        ({"strategy": optuna.samplers.RandomSampler()}, ValueError, "`n_trials` with a sampler"),
        ({"strategy": optuna.samplers.GridSampler({"a": [1]}), "n_trials": 3}, ValueError, 'use strategy="grid"'),
        ({"n_trials": 3}, ValueError, "`n_trials` with a sampler of Optuna only"),
        ({"seeds": []}, ValueError, "a list of different seeds"),
        ({"seeds": [1, 1]}, ValueError, "a list of different seeds"),
        ({"seeds": 0}, ValueError, "an int >= 1"),
        ({"workers": 0}, ValueError, "an int >= 1"),
        ({"storage": 3}, TypeError, "a path, a URL"),
        ({"storage": "/proc/nowhere/sweep.db"}, ValueError, "a file or a database that can be written"),
        ({"executor": 3}, TypeError, "an object with `submit`"),
        ({"pruner": "median"}, TypeError, "a pruner of Optuna"),
        ({"retune": "yes"}, TypeError, "BatchSizeScaler and LRFinder objects"),
        ({"retune": LRFinder(), "space": {"lr": [1]}}, ValueError, "but got both"),
        (
            {
                "build": lambda settings: (Scored(settings["lr"]), loaders()),
                "trainer": {**TRAINER, "callbacks": [LRFinder()]},
                "space": {"lr": [1]},
            },
            ValueError,
            "LRFinder in the callbacks of the Trainer or 'lr' in `space`",
        ),
        ({"trainer": {"max_epoch": 1}}, ValueError, "it has no 'max_epoch'"),
        ({"trainer": {**TRAINER, "strategy": "ddp", "devices": 2}}, ValueError, "starts the script again"),
        ({"trainer": 3}, TypeError, "a dict of arguments of the Trainer"),
        ({"refine": -1}, ValueError, "an int >= 0"),
        ({"pruner": optuna.pruners.NopPruner(), "workers": 2}, ValueError, "`storage` on disk with a `pruner`"),
    ],
)
def test_wrong_arguments_get_one_sentence_before_any_training(options: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        run(**options)


ARGUMENTS = [name for name in inspect.signature(sweep).parameters if name != "build"]


class OneEpoch(Scored):
    """Ends where nothing else ends the training: an empty `trainer` would train for 1000 epochs."""

    def on_train_epoch_end(self) -> None:
        self.trainer.should_stop = True


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_any_value_gets_a_sentence_or_a_result(argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for value in (None, True, -1, 2.5, float("nan"), "", "abc", b"x", [], ["abc"], {}, {1: 2}, object(), torch.ones(2)):
        try:
            short = {"build": lambda settings: (OneEpoch(settings["a"]), loaders())} if argument == "trainer" else {}
            run(**{"space": {"a": [1], "b": [2]}, **short, argument: value})
        except (TypeError, ValueError, SweepError) as error:  # noqa: PERF203
            assert "expected" in str(error).lower(), f"{argument}={value!r}: {error}"  # noqa: PT017 - either is right


def test_build_that_cannot_be_sent_to_workers_is_refused():
    lock = threading.Lock()

    def holds(settings: dict[str, Any]) -> Any:
        assert lock is not None
        return Scored(settings["a"]), loaders()

    with pytest.raises(TypeError, match="sent to worker processes, but it cannot be pickled"):
        run(build=holds, space={"a": [1]}, workers=2)


def test_each_training_has_a_folder_and_the_sweep_a_summary(tmp_path: Path):
    result = run(space={"a": [1, 2], "b": [10]}, logdir=tmp_path, seeds=2)

    assert folders(tmp_path) == [
        "summary",
        "trial_000_a=1_b=10_seed=0",
        "trial_001_a=1_b=10_seed=1",
        "trial_002_a=2_b=10_seed=0",
        "trial_003_a=2_b=10_seed=1",
    ]
    assert {Path(trial.log_dir or "").name for trial in result.trials} == set(folders(tmp_path)[1:])
    assert (tmp_path / "sweep.db").is_file()
    assert (tmp_path / "summary" / "recommended.yaml").read_text() == "a: 2\nb: 10\n"


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run(space={"a": [1, 2], "b": [10]})
    assert not list(tmp_path.iterdir())


def test_poor_trainings_are_pruned():
    def learning(settings: dict[str, Any]) -> Any:
        return Scored(settings["a"]), loaders()

    result = run(
        build=learning,
        space={"a": [4, 3, 2, 1]},
        trainer={**TRAINER, "max_epochs": 3},
        pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0),
    )

    assert [trial.status for trial in result.trials] == ["complete", "pruned", "pruned", "pruned"]
    assert [len(trial.intermediate_values) for trial in result.study.trials] == [3, 1, 1, 1]
    assert result.best == {"a": 4}


def test_finders_rehearse_once_per_setting_and_all_seeds_use_what_was_found():
    class Net(Scored):
        def __init__(self, score: float, lr: float = 0.001) -> None:
            super().__init__(score)
            self.lr = lr

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self.log("train_lr", self.optimizers().param_groups[0]["lr"])
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    def tuned(settings: dict[str, Any]) -> Any:
        data = torch.utils.data.TensorDataset(torch.randn(64, 2, generator=torch.Generator().manual_seed(0)))
        return Net(settings["a"]), (torch.utils.data.DataLoader(data, 4), torch.utils.data.DataLoader(data, 64))

    finder = LRFinder(num_training_steps=30, suggestion="valley")
    result = run(build=tuned, space={"a": [1, 2]}, seeds=2, retune=finder, monitor="train_lr")

    rates = {(trial.settings["a"], trial.seed): trial.score for trial in result.trials}
    found = {(trial.settings["a"], trial.seed): trial.used["lr"] for trial in result.trials}
    assert rates == pytest.approx(found)
    assert found[1, 0] == found[1, 1] != 0.001
    assert finder.result is None  # the user's own object is not touched


def test_callbacks_of_the_user_are_copied_for_each_training():
    class Counter(pl.Callback):
        fits = 0

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            self.fits += 1
            assert self.fits == 1

    counter = Counter()
    run(space={"a": [1, 2], "b": [10]}, trainer={**TRAINER, "callbacks": [counter]})
    assert counter.fits == 0


def test_the_recommended_settings_are_the_cheapest_within_one_error():
    def noisy(settings: dict[str, Any]) -> Any:
        width = settings["width"]
        model = Scored(0.0, width)
        model.score = {2: 0.5, 8: 0.9, 64: 0.901}[width] + 0.01 * model.draw
        return model, loaders()

    result = run(build=noisy, space={"width": [2, 8, 64]}, seeds=4)

    assert result.best == {"width": 64}
    assert result.recommended == {"width": 8}
    assert [settings["width"] for settings in result.ties] == [64, 8]


class Killing:
    """Builds as `build` does, writes down what it is asked for, and is killed in one of its calls."""

    def __init__(self, asked: Path) -> None:
        self.asked = asked

    def __call__(self, settings: dict[str, Any]) -> Any:
        with self.asked.open("a") as file:
            file.write(f"{settings['a']} {settings['b']}\n")
        if len(self.asked.read_text().splitlines()) == int(os.environ["KILLED_IN"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return build(settings)


def sweep_and_print(build: Any, space: dict[str, Any], storage: Path) -> None:
    result = sweep(build, space, monitor="val_score", mode="max", trainer=TRAINER, storage=storage, logdir=None)
    print(result.best, len(result.trials))


def test_a_killed_sweep_loses_at_most_the_training_that_ran(tmp_path: Path):
    asked = tmp_path / "asked"
    arguments = (Killing(asked), SPACE, tmp_path / "sweep.db")
    killed = Forked(sweep_and_print, arguments, tmp_path, KILLED_IN="4")
    assert killed.wait(240) == -signal.SIGKILL

    done = Forked(sweep_and_print, arguments, tmp_path, KILLED_IN="-1")
    assert done.wait(240) == 0, done.output

    assert done.output.splitlines()[-1] == "{'a': 3, 'b': 20} 6"
    # In the first call one build before the trainings, two trainings, and the one that was killed.
    assert len(asked.read_text().splitlines()) == 4 + 1 + 4


def test_an_interrupt_is_raised_and_its_training_made_again(tmp_path: Path):
    interrupts = [True]

    def interrupted(settings: dict[str, Any]) -> Any:
        if settings["a"] == 2 and interrupts[0]:
            raise KeyboardInterrupt
        return Scored(settings["a"]), loaders()

    storage = tmp_path / "sweep.db"
    with pytest.raises(KeyboardInterrupt):
        run(build=interrupted, space={"a": [1, 2]}, storage=storage)
    interrupts[0] = False
    result = run(build=interrupted, space={"a": [1, 2]}, storage=storage)

    assert [trial.score for trial in result.trials] == [1, 2]
    assert [trial.number for trial in result.trials] == [0, 2]


def test_an_interrupt_within_fit_is_raised_as_such():
    class Interrupted(Scored):
        def on_train_start(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(build=lambda settings: (Interrupted(settings["a"]), loaders()), space={"a": [1, 2]})


def test_only_settings_of_the_space_count(tmp_path: Path):
    storage = tmp_path / "sweep.db"
    run(storage=storage)

    narrow = run(storage=storage, space={"a": [1, 2], "b": [10]})

    assert narrow.best == {"a": 2, "b": 10}
    assert {tuple(trial.settings.values()) for trial in narrow.trials} == {(1, 10), (2, 10)}


def test_a_value_that_build_holds_is_part_of_the_experiment(tmp_path: Path):
    def scaled(settings: dict[str, Any], factor: float) -> Any:
        return Scored(factor * settings["a"]), loaders()

    def closure(factor: float) -> Any:
        return lambda settings: (Scored(factor * settings["a"]), loaders())

    for index, make in enumerate((lambda factor: functools.partial(scaled, factor=factor), closure)):
        storage = tmp_path / f"{index}.db"
        run(build=make(1.0), space={"a": [1]}, storage=storage)
        run(build=make(1.0), space={"a": [1]}, storage=storage)
        with pytest.raises(ValueError, match="a value that it holds"):
            run(build=make(2.0), space={"a": [1]}, storage=storage)


def test_a_build_that_returns_the_same_module_is_refused():
    model = Scored(1.0)

    with pytest.raises(SweepError, match="a new module each time"):
        run(build=lambda settings: (model if settings["a"] else None, loaders()), space={"a": [1, 2]})


def test_with_one_seed_no_effect_has_an_interval():
    result = run(strategy="grid")

    assert all(np.isnan(effect.margin) for effect in result.effects.values())
    assert "±" not in str(result)


def slow(settings: dict[str, Any]) -> Any:
    time.sleep(0.3)
    return Scored(settings["a"]), loaders()


def test_two_calls_at_once_share_the_trainings(tmp_path: Path):
    arguments = (slow, {"a": list(range(6))}, tmp_path / "sweep.journal")
    calls = [Forked(sweep_and_print, arguments, tmp_path) for _ in range(2)]
    assert [call.wait(240) for call in calls] == [0, 0]

    for call in calls:
        assert call.output.splitlines()[-1] == "{'a': 5} 6"
    study = optuna.load_study(
        study_name="sweep",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(tmp_path / "sweep.journal"))
        ),
    )
    complete = [trial.user_attrs["key"] for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len(complete) == len(set(complete)) == 6


def test_results_in_other_forms(tmp_path: Path):
    result = run(seeds=2)

    table = result.to_pandas()
    assert list(table["a"]) == [trial.settings["a"] for trial in result.trials]
    assert result.to_yaml(tmp_path / "found.yaml") == "a: 3\nb: 20\n"
    assert result.to_dict()["best"] == {"a": 3, "b": 20}
    header, rows = result.table()
    assert len(rows) == 6
    assert rows[0][:3] == ["3", "20", 0.0]
    assert len(header) == len(rows[0])
    assert len(result.plot().axes) == 3
    assert result.importances() is None
    assert "recommended: a=3, b=20" in str(result)


def test_memory_of_a_training_is_freed():
    alive: list[weakref.ref[Any]] = []

    class Watched(Scored):
        def __init__(self, score: float) -> None:
            super().__init__(score)
            alive.append(weakref.ref(self))

    def watched(settings: dict[str, Any]) -> Any:
        # When a training is built, none of the earlier ones exists any more.
        assert all(reference() is None for reference in alive[1:])
        return Watched(settings["a"]), loaders()

    gc.disable()
    try:
        result = run(build=watched, space={"a": [1, 2, 3]})
    finally:
        gc.enable()
    assert [trial.status for trial in result.trials] == ["complete"] * 3


def test_the_work_per_training_does_not_grow_with_the_number_of_trainings(monkeypatch: pytest.MonkeyPatch):
    class Instant:
        def submit(self, function: Any, job: Any) -> Future:
            future: Future = Future()
            future.set_result(Outcome("complete", score=job.settings["a"]))
            return future

    def labels_made(count: int) -> int:
        made = []
        original = labels.label_of
        monkeypatch.setattr(labels, "label_of", lambda value: made.append(value) or original(value))
        space = {"a": list(range(count)), "b": [20]}
        sweep(
            build, space, monitor="val_accuracy", mode="max", executor=Instant(), trainer=TRAINER, logdir=None, seeds=2
        )
        monkeypatch.undo()
        return len(made)

    assert labels_made(60) < 4 * labels_made(20)


def test_time_is_measured():
    started = time.monotonic()
    result = run(space={"a": [1], "b": [10]}, cost="time")
    assert 0 < result.trials[0].seconds <= time.monotonic() - started
