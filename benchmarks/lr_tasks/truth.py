"""Ground truth: real trainings over a grid of learning rates, written as JSON.

``python -m benchmarks.lr_tasks.truth shaping`` (or another group) trains what the file lacks.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.lr_tasks.task import LRTask, train

SEEDS = (0, 1, 2)


def path_of(group: str) -> Path:
    """The file of a group of tasks, a folder beside this file such as ``"shaping"``."""
    return Path(__file__).parent / group / "truth.json"


def tasks_of(group: str) -> tuple[LRTask, ...]:
    """The tasks of a group."""
    tasks: tuple[LRTask, ...] = importlib.import_module(f"benchmarks.lr_tasks.{group}.tasks").TASKS
    return tasks


def load(group: str) -> dict[str, Any]:
    """What was measured so far, by the name of the task."""
    path = path_of(group)
    return json.loads(path.read_text()) if path.exists() else {}


def measure(task: LRTask, seeds: tuple[int, ...] = SEEDS) -> dict[str, Any]:
    """Scores (rate x seed) over the grid of a task."""
    start = time.perf_counter()
    scores = [[round(train(task, 10.0**exponent, seed), 2) for seed in seeds] for exponent in task.exponents]
    return {
        "log10_lr": list(task.exponents),
        "score": scores,
        "steps": task.total_steps,
        "seconds": round(time.perf_counter() - start, 1),
    }


def write(group: str, truth: dict[str, Any]) -> None:
    """Writes one line per list, so that a diff is readable."""
    text = re.sub(r"\[[^\[\]]*\]", lambda match: re.sub(r"\s+", " ", match.group()), json.dumps(truth, indent=1))
    path_of(group).write_text(text + "\n")


def main(group: str, names: list[str]) -> None:
    """Measures the tasks of a group that are named, or those that are missing."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for task in tasks_of(group):
        if task.name in names or (not names and task.name not in load(group)):
            found = measure(task)
            write(group, {**load(group), task.name: found})
            print(f"{task.name}: {found['seconds']} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
