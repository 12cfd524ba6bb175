"""Regret of learning-rate finders: the accuracy lost by training with the suggested instead of the best LR."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import log10
from pathlib import Path

from benchmarks.ground_truth import Truth
from benchmarks.lr_finders import METHODS, Method
from benchmarks.tasks import FORMS, TASKS, Form, Task

SEEDS = tuple(range(100, 106))  # not the seeds of the ground truth


@dataclass(frozen=True)
class Run:
    """One run of one finder on one task: the suggested LR and its regret."""

    method: str
    task: str
    form: Form
    seed: int
    lr: float | None
    steps: int
    regret: float | None


@dataclass(frozen=True)
class Summary:
    """A method over all tasks; regrets in accuracy points, spreads in decades."""

    method: str
    constant_mean: float
    constant_worst: float
    one_cycle_mean: float
    one_cycle_worst: float
    far_off: float
    constant_spread: float
    one_cycle_spread: float
    refused: float
    steps: float


def run_all(
    methods: Iterable[Method] = METHODS, tasks: Sequence[Task] = TASKS, seeds: Sequence[int] = SEEDS
) -> list[Run]:
    """Runs every method on every task, form and seed."""
    runs: list[Run] = []
    methods = tuple(methods)
    for task in tasks:
        for form in FORMS:
            truth = Truth.load(task, form)
            for method in methods:
                for seed in seeds:
                    for name, (lr, steps) in method(task, form, seed).items():
                        regret = None if lr is None else round(truth.regret(lr), 3)
                        runs.append(Run(name, task.name, form, seed, lr, steps, regret))
        print(f"regret: finished {task.name}", flush=True)
    return runs


def summarize(runs: Iterable[Run]) -> list[Summary]:
    """One summary per method, in the order of the runs."""
    by_method: dict[str, list[Run]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    return [_summary(method, its_runs) for method, its_runs in by_method.items()]


def _summary(method: str, runs: list[Run]) -> Summary:
    regrets = {form: [run.regret for run in runs if run.form == form and run.regret is not None] for form in FORMS}
    every = regrets["constant"] + regrets["one_cycle"]
    return Summary(
        method,
        statistics.mean(regrets["constant"]),
        max(regrets["constant"]),
        statistics.mean(regrets["one_cycle"]),
        max(regrets["one_cycle"]),
        sum(regret > 5 for regret in every) / len(every),
        _spread([run for run in runs if run.form == "constant"]),
        _spread([run for run in runs if run.form == "one_cycle"]),
        sum(run.lr is None for run in runs) / len(runs),
        statistics.median(run.steps for run in runs),
    )


def _spread(runs: list[Run]) -> float:
    """Standard deviation of log10 of the suggestions over the seeds, mean over the tasks."""
    exponents: dict[str, list[float]] = {}
    for run in runs:
        if run.lr is not None:
            exponents.setdefault(run.task, []).append(log10(run.lr))
    return statistics.mean(statistics.stdev(values) for values in exponents.values() if len(values) > 1)


def save(runs: Iterable[Run], path: Path) -> None:
    """Writes one line per run."""
    path.write_text("[\n" + ",\n".join(json.dumps(asdict(run)) for run in runs) + "\n]\n")


def load(path: Path) -> list[Run]:
    """Reads what :func:`save` wrote."""
    return [Run(**row) for row in json.loads(path.read_text())]
