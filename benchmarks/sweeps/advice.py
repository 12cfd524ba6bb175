"""Whether common advice on sweeps holds: ``python -m benchmarks.sweeps.advice``.

The most important subject first; learning rate and batch size together; a learning rate found anew for each setting.
"""

from __future__ import annotations

import json
import logging
import math
import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from benchmarks.sweeps.modules import builder
from benchmarks.sweeps.replay import Made, replay, steps
from benchmarks.sweeps.strategies import REPETITIONS, start_of
from benchmarks.sweeps.tables import Table, grid, table_of
from benchmarks.sweeps.task import SEARCH_SEEDS, TRUTH_SEEDS, Settings
from benchmarks.sweeps.tasks import TASKS
from lightning_hp import LRFinder, sweep

PATH = Path(__file__).parent / "advice.json"
UNBOUNDED = 1e9


def impact(table: Table, name: str) -> float:
    """The difference between the best and the worst value of a subject, each a mean over all else."""
    means = []
    for value in table.task.space[name]:
        rows = [settings for settings in grid(table.task) if settings[name] == value]
        means.append(np.mean([table.get(settings, seed).validation[-1] for settings in rows for seed in SEARCH_SEEDS]))
    return float(max(means) - min(means))


def in_order(table: Table, names: Sequence[str], repetition: int) -> list[Made]:
    """One at a time in an order."""
    return replay(table, {name: table.task.space[name] for name in names}, UNBOUNDED, start_of(table, repetition))


def separate(table: Table, repetition: int) -> list[Made]:
    """The learning rate, then the batch size, then the others."""
    return in_order(table, ["lr", "batch_size", *_others(table)], repetition)


def pairs(table: Table, repetition: int) -> list[Made]:
    """All pairs of learning rate and batch size as one subject, then the others."""
    space = table.task.space
    both = [(size, lr) for size in space["batch_size"] for lr in space["lr"]]
    subjects: dict[Any, Any] = {("batch_size", "lr"): both} | {name: space[name] for name in _others(table)}
    return replay(table, subjects, UNBOUNDED, start_of(table, repetition))


def scaled(table: Table, repetition: int) -> list[Made]:
    """The learning rate, then batch sizes with the learning rate that the scaling rule gives, then the others.

    Linear scaling for SGD, by the square root for AdamW; the lists are spaced so that it leads to other values of them.
    """
    space, start = table.task.space, start_of(table, repetition)
    first = replay(table, _fixed(table, start) | {"lr": space["lr"]}, UNBOUNDED, start)
    best = steps(table, first)[-1].settings
    power = 1.0 if table.task.optimizer == "SGD" else 0.5
    coupled = []
    for size in space["batch_size"]:
        lr = best["lr"] * (size / best["batch_size"]) ** power
        near = min(space["lr"], key=lambda value: abs(math.log(value / lr)))
        if abs(math.log(near / lr)) < 0.1:
            coupled.append((size, near))
    subjects: dict[Any, Any] = {("batch_size", "lr"): coupled} | {name: space[name] for name in _others(table)}
    made = {(str(one.settings), one.seed): one for one in first}
    made |= {(str(one.settings), one.seed): one for one in replay(table, subjects, UNBOUNDED, best)}
    return list({(str(sorted(one.settings.items())), one.seed): one for one in made.values()}.values())


def _others(table: Table) -> list[str]:
    return [name for name in table.task.space if name not in ("lr", "batch_size")]


def _fixed(table: Table, start: Settings) -> dict[Any, Any]:
    return {name: [start[name]] for name in table.task.space}


def orders_and_coupling() -> list[dict[str, Any]]:
    """The choice of every way from every start."""
    rows = []
    for task in TASKS:
        table = table_of(task)
        important = sorted(task.space, key=lambda name: impact(table, name), reverse=True)
        ways: dict[str, Any] = {
            "important first": lambda table, start, names=important: in_order(table, names, start),
            "given order": lambda table, start: in_order(table, list(table.task.space), start),
            "important last": lambda table, start, names=important[::-1]: in_order(table, names, start),
            "separate": separate,
            "scaled": scaled,
            "pairs": pairs,
        }
        for way, run in ways.items():
            for repetition in range(REPETITIONS):
                made = run(table, repetition)
                last = steps(table, made)[-1]
                rows.append({"task": task.name, "way": way, "trainings": len(made), "regret": last.regret})
        for row in rows:
            if row["task"] == task.name and row["way"] == "important first":
                row["order"] = {name: round(impact(table, name), 1) for name in important}
        table.save()
    return rows


def retuned() -> list[dict[str, Any]]:
    """On the first task: a rate found anew for each setting, the one that was found first, and the best of the grid."""
    task = TASKS[0]
    table = table_of(task)
    space = {name: values for name, values in task.space.items() if name != "lr"}
    trainer = {"max_epochs": task.epochs, "accelerator": "cpu"}
    found = sweep(
        builder(task, lr=task.start["lr"]),
        space,
        monitor="val_accuracy",
        mode="max",
        strategy="grid",
        trainer=trainer,
        retune=LRFinder(),
        logdir=None,
        enable_progress_bar=False,
    )
    rates = {str(trial.settings): (trial.used["lr"], trial.seconds) for trial in found.trials}
    first = {name: task.start[name] for name in space}
    best_at_first = max(task.space["lr"], key=lambda lr: _validation(table, {**first, "lr": lr}))
    rows = []
    for trial in found.trials:
        settings = dict(trial.settings)
        found_lr = rates[str(trial.settings)][0]
        one_found = rates[str(first)][0]
        best_lr = max(task.space["lr"], key=lambda lr: _validation(table, {**settings, "lr": lr}))
        ways = {
            "found anew": found_lr,
            "found once": one_found,
            "grid once": best_at_first,
            "grid anew": best_lr,
        }
        for way, lr in ways.items():
            score = float(np.mean([table.get({**settings, "lr": lr}, seed).test for seed in TRUTH_SEEDS]))
            rows.append({"settings": settings, "way": way, "lr": lr, "score": round(score, 2)})
    table.save()
    return rows


def _validation(table: Table, settings: Mapping[str, Any]) -> float:
    return float(np.mean([table.get(dict(settings), seed).validation[-1] for seed in SEARCH_SEEDS]))


def same_as_trainer() -> dict[str, Any]:
    """Ten settings of the first task with the Trainer and with the loop of the tables."""
    task = TASKS[0]
    table, differences = table_of(task), []
    for settings in random.Random(0).sample(grid(task), 10):
        for seed in SEARCH_SEEDS:
            torch.manual_seed(seed)
            model, (loader, validation) = builder(task)(settings)
            trainer = pl.Trainer(
                max_epochs=task.epochs,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            trainer.fit(model, loader, validation)
            score = float(trainer.callback_metrics["val_accuracy"])
            differences.append(score - table.get(settings, seed).validation[-1])
    error = float(np.std(differences, ddof=1) / math.sqrt(len(differences)))
    return {"mean": round(float(np.mean(differences)), 2), "error": round(error, 2), "trainings": len(differences)}


def main() -> None:
    """Runs all and writes the JSON file."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    result = {"choices": orders_and_coupling(), "retuned": retuned(), "trainer": same_as_trainer()}
    rows = ",\n".join(
        f'"{key}": [\n' + ",\n".join(map(json.dumps, value)) + "\n]"
        if isinstance(value, list)
        else f'"{key}": {json.dumps(value)}'
        for key, value in result.items()
    )
    PATH.write_text(f"{{\n{rows}\n}}\n")


if __name__ == "__main__":
    main()
