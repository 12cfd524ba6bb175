"""Runs the strategies on the tables, ten times each: ``python -m benchmarks.sweeps.strategies``."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna
import torch

from benchmarks.sweeps.replay import Made, replay, steps
from benchmarks.sweeps.tables import Table, grid, table_of
from benchmarks.sweeps.task import SEARCH_SEEDS, Settings
from benchmarks.sweeps.tasks import TASKS

PATH = Path(__file__).parent / "strategies.json"
REPETITIONS = 10
#: Repetitions of the strategies that are not compared with the others.
FEWER = {"grid": 1, "hybrid, GP": 5}


def start_of(table: Table, repetition: int) -> Settings:
    """The values that a sweep starts from: the user's in the first repetition, then any of the grid."""
    return table.task.start if repetition == 0 else random.Random(repetition).choice(grid(table.task))


def quarter(table: Table) -> int:
    """A quarter of the trainings of the grid."""
    return len(grid(table.task)) * len(SEARCH_SEEDS) // 4


def one_at_a_time(table: Table, repetition: int, **options: Any) -> list[Made]:
    """`sweep` as it is by default."""
    return replay(table, table.task.space, quarter(table), start_of(table, repetition), **options)


def hybrid(table: Table, repetition: int, sampler: optuna.samplers.BaseSampler | None = None) -> list[Made]:
    """One at a time, then a search between the neighbours of the best values until a quarter of the grid is spent."""
    if sampler is None:
        return one_at_a_time(table, repetition, refine=quarter(table))
    with patch("lightning_hp.sweeping.carry_out.refining_sampler", lambda: sampler):
        return one_at_a_time(table, repetition, refine=quarter(table))


def sampled(table: Table, sampler: optuna.samplers.BaseSampler) -> list[Made]:
    """A sampler of Optuna among the values of the lists."""
    count = quarter(table) // len(SEARCH_SEEDS)
    return replay(table, table.task.space, quarter(table), table.task.start, strategy=sampler, n_trials=count)


def asha(table: Table, repetition: int) -> list[Made]:
    """TPE and successive halving in plain Optuna: both seeds of a setting are trained side by side, epoch by epoch."""
    task, made = table.task, []

    def objective(trial: optuna.Trial) -> float:
        settings = {
            name: trial.suggest_categorical(name, values)
            if isinstance(values[0], str)
            else sorted(values)[trial.suggest_int(name, 0, len(values) - 1)]
            for name, values in task.space.items()
        }
        curves = [table.get(settings, seed).validation for seed in SEARCH_SEEDS]
        for epoch in range(task.epochs):
            mean = sum(curve[epoch] for curve in curves) / len(curves)
            trial.report(mean, epoch)
            if epoch < task.epochs - 1 and trial.should_prune():
                cost = (epoch + 1) / task.epochs
                made.extend(Made(settings, seed, cost, mean) for seed in SEARCH_SEEDS)
                raise optuna.TrialPruned
        made.extend(Made(settings, seed, 1.0, curve[-1]) for seed, curve in zip(SEARCH_SEEDS, curves, strict=True))
        if sum(one.cost for one in made) >= quarter(table):
            trial.study.stop()
        return mean

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=repetition),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    )
    study.optimize(objective, n_trials=10 * quarter(table))
    return made


STRATEGIES: dict[str, Callable[[Table, int], list[Made]]] = {
    "one at a time": one_at_a_time,
    "measured order": lambda table, repetition: one_at_a_time(table, repetition, order="measured"),
    "TPE": lambda table, repetition: sampled(table, optuna.samplers.TPESampler(seed=repetition)),
    "random": lambda table, repetition: sampled(table, optuna.samplers.RandomSampler(seed=repetition)),
    "ASHA": asha,
    "grid": lambda table, _: replay(table, table.task.space, 1e9, table.task.start, strategy="grid"),
    "hybrid, TPE": lambda table, repetition: hybrid(
        table, repetition, optuna.samplers.TPESampler(seed=repetition, multivariate=True)
    ),
    "hybrid, GP": lambda table, repetition: hybrid(table, repetition, optuna.samplers.GPSampler(seed=repetition)),
}


def run(strategy: str, task: str) -> None:
    """Runs a strategy on a task and writes what it would have chosen after how many trainings."""
    table = table_of(next(one for one in TASKS if one.name == task))
    new: list[dict[str, Any]] = []
    for repetition in range(FEWER.get(strategy, REPETITIONS)):
        made = STRATEGIES[strategy](table, repetition)
        row: dict[str, Any] = {"task": task, "strategy": strategy, "repetition": repetition}
        row["trainings"] = round(sum(one.cost for one in made), 2)
        row["steps"] = [list(step) for step in steps(table, made)]
        new.append(row)
    table.save()
    rows = json.loads(PATH.read_text()) if PATH.exists() else []
    rows = [row for row in rows if (row["task"], row["strategy"]) != (task, strategy)] + new
    PATH.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(task, strategy, [row["steps"][-1][1] for row in new], flush=True)


def main() -> None:
    """Runs what the command line names: strategies, or all; on tasks, or all."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    strategies = [name for name in STRATEGIES if name in sys.argv] or list(STRATEGIES)
    for strategy in strategies:
        for task in [task.name for task in TASKS if task.name in sys.argv] or [task.name for task in TASKS]:
            run(strategy, task)


if __name__ == "__main__":
    main()
