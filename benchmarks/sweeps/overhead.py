"""What a sweep costs beyond its trainings, in time and memory: ``python -m benchmarks.sweeps.overhead``.

Every way makes the same ten short trainings. The ways take turns, so that a slow phase of the machine meets all.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import multiprocessing
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytorch_lightning as pl
import torch

from benchmarks.sweeps.modules import builder
from benchmarks.sweeps.task import Settings
from benchmarks.sweeps.tasks import TASKS
from lightning_hp import sweep

PATH = Path(__file__).parent / "overhead.json"
ROUNDS = 8
TASK = TASKS[0]
SPACE: dict[str, list[Any]] = {"width": [32, 64], "dropout": [0.0, 0.1, 0.2, 0.3, 0.5]}
FIXED: Settings = {"lr": 0.03, "batch_size": 64}
TRAINER: dict[str, Any] = {
    "max_epochs": 1,
    "accelerator": "cpu",
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
_marks: list[tuple[float, float]] = []
SETTINGS = [{"width": width, "dropout": dropout} for width in SPACE["width"] for dropout in SPACE["dropout"]]


def build(settings: Settings) -> Any:
    """The model and the data of a training; notes processor time and wall time."""
    _marks.append((time.process_time(), time.perf_counter()))
    return builder(TASK)({**FIXED, "width": settings["width"], "dropout": settings["dropout"]})


def train(settings: Settings) -> float:
    """One training, as a user would write it."""
    pl.seed_everything(0, workers=True, verbose=False)
    model, (loader, validation) = build(settings)
    trainer = pl.Trainer(**TRAINER, logger=False)
    trainer.fit(model, loader, validation)
    return float(trainer.callback_metrics["val_accuracy"])


def bare_loop(_: Path) -> None:
    for settings in SETTINGS:
        train(settings)


def plain_optuna(storage: Callable[[Path], Any]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        def objective(trial: optuna.Trial) -> float:
            return train({name: trial.suggest_categorical(name, values) for name, values in SPACE.items()})

        study = optuna.create_study(
            storage=storage(folder), sampler=optuna.samplers.GridSampler(SPACE, seed=0), direction="maximize"
        )
        study.optimize(objective)

    return run


def with_sweep(storage: str | None) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        sweep(
            build,
            SPACE,
            monitor="val_accuracy",
            mode="max",
            strategy="grid",
            trainer=TRAINER,
            storage=None if storage is None else folder / storage,
            logdir=None,
            enable_progress_bar=False,
        )

    return run


def sweep_with_logs(folder: Path) -> None:
    sweep(
        build,
        SPACE,
        monitor="val_accuracy",
        mode="max",
        strategy="grid",
        trainer=TRAINER,
        logdir=folder / "logs",
        enable_progress_bar=False,
    )


def journal(folder: Path) -> Any:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal")))


def with_mushin(folder: Path) -> None:
    """mushin-py, which writes a folder per training."""
    import mushin

    def experiment(width: int, dropout: float) -> dict[str, float]:
        return {"accuracy": train({"width": width, "dropout": dropout})}

    values = {name: mushin.multirun(values) for name, values in SPACE.items()}
    with contextlib.redirect_stdout(io.StringIO()):
        mushin.sweep(experiment).run(**values, working_dir=str(folder / "mushin"))


WAYS: dict[str, Callable[[Path], None]] = {
    "bare loop": bare_loop,
    "Optuna, memory": plain_optuna(lambda _: None),
    "Optuna, journal": plain_optuna(journal),
    "Optuna, SQLite": plain_optuna(lambda folder: f"sqlite:///{folder / 'optuna.db'}"),
    **({"mushin-py": with_mushin} if find_spec("mushin") else {}),
    "`sweep`, memory": with_sweep(None),
    "`sweep`, journal": with_sweep("sweep.journal"),
    "`sweep`, SQLite": with_sweep("sweep.db"),
    "`sweep`, SQLite and TensorBoard": sweep_with_logs,
}


def measure() -> dict[str, list[list[float]]]:
    """Four numbers of each way in each round; the first round is left out.

    Processor and wall seconds from one training to the next, and of the whole call beyond its trainings.
    """
    found: dict[str, list[list[float]]] = {name: [] for name in WAYS}
    names = list(WAYS)
    for number in range(ROUNDS + 1):
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            folder = Path(tempfile.mkdtemp())
            _marks.clear()
            start = time.process_time(), time.perf_counter()
            WAYS[name](folder)
            end = time.process_time(), time.perf_counter()
            shutil.rmtree(folder)
            marks = _marks[-len(SETTINGS) :]  # without the call of `build` before the first training
            each = [(marks[-1][i] - marks[0][i]) / (len(marks) - 1) for i in (0, 1)]
            once = [end[i] - start[i] - len(marks) * each[i] for i in (0, 1)]
            if number:
                found[name].append([round(value, 5) for value in (*each, *once)])
    return found


def _be_quiet() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def _memory_of(name: str, results: Any) -> None:
    _be_quiet()
    process, rows = psutil.Process(), []
    for _ in range(7):  # ten trainings each; the first ten fill the caches of the libraries
        folder = Path(tempfile.mkdtemp())
        WAYS[name](folder)
        shutil.rmtree(folder)
        rows.append(process.memory_info().rss / 2**20)
    results.put(rows)


def _long_sweep(results: Any) -> None:
    """One sweep of 70 trainings; resident memory after each."""
    _be_quiet()
    process, rows = psutil.Process(), []

    def watched(settings: Settings) -> Any:
        rows.append(process.memory_info().rss / 2**20)
        return build(settings)

    folder = Path(tempfile.mkdtemp())
    sweep(
        watched,
        {"width": list(range(32, 46)), "dropout": SPACE["dropout"]},
        monitor="val_accuracy",
        mode="max",
        strategy="grid",
        trainer=TRAINER,
        storage=folder / "sweep.db",
        logdir=None,
        enable_progress_bar=False,
    )
    shutil.rmtree(folder)
    results.put(rows)


def memory() -> dict[str, float]:
    """Growth of resident memory per training, in MB, over 60 trainings after the first ten; each in a new process."""
    context = multiprocessing.get_context("spawn")
    growth = {}
    for name in ("bare loop", "Optuna, SQLite", "`sweep`, SQLite"):
        results = context.Queue()
        if name.startswith("`"):
            process = context.Process(target=_long_sweep, args=(results,))
        else:
            process = context.Process(target=_memory_of, args=(name, results))
        process.start()
        rows = results.get()
        process.join()
        first = rows[10] if len(rows) > 10 else rows[0]
        growth[name] = round((rows[-1] - first) / 60, 3)
    return growth


def main() -> None:
    """Measures and writes the JSON file."""
    _be_quiet()
    result = {"seconds": measure(), "memory": memory()}
    PATH.write_text(json.dumps(result, indent=1) + "\n")
    print({name: sorted(rows)[len(rows) // 2] for name, rows in result["seconds"].items()}, result["memory"])


if __name__ == "__main__":
    main()
