"""What learning-rate finders lose on the tasks: ``python -m benchmarks.lr_tasks.regret shaping`` (or another group).

After the group it takes the number of trainings at each rate that was found, from 1 to 3, which are 3 by default, or
the names of tasks.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from benchmarks.lr_tasks import truth
from benchmarks.lr_tasks.task import LRTask, train
from lightning_hp import LRFinder

SEEDS = (100, 101, 102)  # not those of the ground truth

#: The rules of other finders read the range test of this package, which is no worse than theirs.
RULES = ("fall", "steepest", "valley", "minimum")


def score_at(measured: dict[str, Any], lr: float) -> float:
    """The mean score at a rate, interpolated in its logarithm; outside the grid that of its end."""
    means = np.mean(measured["score"], axis=1)
    return float(np.interp(math.log10(lr), measured["log10_lr"], means))


def regret(measured: dict[str, Any], lr: float) -> float:
    """Points lost against the best rate of the grid."""
    return float(np.mean(measured["score"], axis=1).max()) - score_at(measured, lr)


def regret_of_trainings(measured: dict[str, Any], scores: dict[str, float]) -> float:
    """Points that trainings lost on average against those from the same seeds at the best rate of the grid."""
    best = measured["score"][int(np.mean(measured["score"], axis=1).argmax())]
    return float(np.mean([best[truth.SEEDS.index(int(seed))] - score for seed, score in scores.items()]))


def search(task: LRTask, seed: int, **options: Any) -> dict[str, Any]:
    """One search, as a user starts it, from the module's own default rate."""
    pl.seed_everything(seed, verbose=False)
    finder = LRFinder(**options)
    result = finder.find(task.trainer(), task.module(task.default_lr), task.loader())
    return {
        "task": task.name,
        "seed": seed,
        "lr": result.suggestion,
        "interval": result.interval,
        "rules": {name: result.rules[name] for name in RULES},
        "steps": result.num_steps,
        "seconds": round(result.seconds, 2),
        "reason": result.reason,
        "note": result.note,
    }


def lightning(task: LRTask, seed: int) -> float | None:
    """Lightning's own finder with its defaults."""
    from pytorch_lightning.tuner import Tuner

    pl.seed_everything(seed, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        trainer = replace(task, options={**task.options, "default_root_dir": folder}).trainer()
        found = Tuner(trainer).lr_find(task.module(task.default_lr), task.loader(), update_attr=False)
    suggested = None if found is None else found.suggestion()
    return suggested if suggested and math.isfinite(suggested) else None


def path_of(group: str) -> Path:
    """The file of the searches of a group."""
    return truth.path_of(group).with_name("searches.json")


def main(group: str, names: list[str], num_trainings: int = 3) -> None:
    """Searches on all tasks of a group, or on those named, trains at what is found, and writes one line per search."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    measured, rows = truth.load(group), []
    for task in truth.tasks_of(group):
        if names and task.name not in names:
            continue
        for place, seed in enumerate(SEEDS[: 1 if names else None]):
            row = {**search(task, seed), "lightning": lightning(task, seed)}
            lr = row["lr"] or task.default_lr
            seeds = [truth.SEEDS[(place + n) % len(truth.SEEDS)] for n in range(num_trainings)]
            row["scores"] = {str(from_seed): round(train(task, lr, from_seed), 2) for from_seed in seeds}
            rows.append(row)
            lost = regret_of_trainings(measured[task.name], row["scores"]) if task.name in measured else math.nan
            found = "none" if row["lr"] is None else f"{lr:.3g}"
            print(f"{task.name:32} {found:>9} loses {lost:5.1f}   {row['steps']} steps   {row['reason']}", flush=True)
        if not names:
            path_of(group).write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


if __name__ == "__main__":
    if sys.argv[2:] and sys.argv[2].isdigit():
        main(sys.argv[1], [], int(sys.argv[2]))
    else:
        main(sys.argv[1], sys.argv[2:])
