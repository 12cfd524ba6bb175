"""The score of every combination: ``python -m benchmarks.sweeps.tables`` trains what the JSON files lack.

All with the seeds that strategies see; the better third also with others, which measure what was chosen.
"""

from __future__ import annotations

import itertools
import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.sweeps.task import SEARCH_SEEDS, TRUTH_SEEDS, Settings, SweepTask, Training, train
from benchmarks.sweeps.tasks import TASKS

FOLDER = Path(__file__).parent


def grid(task: SweepTask) -> list[Settings]:
    """All combinations; the last subject changes fastest."""
    return [dict(zip(task.space, values, strict=True)) for values in itertools.product(*task.space.values())]


class Table:
    """The scores of a task: those of the grid from a file, others are trained and kept in a second file.

    Args:
        task: The task.

    Attributes:
        task: The task.
        trained: How many trainings were made since it was loaded.

    """

    def __init__(self, task: SweepTask) -> None:
        self.task = task
        self.trained = 0
        self._stored = json.loads(_path(task).read_text())
        self._known = {
            self._key(settings, seed, task.epochs): Training(curve, test)
            for seed in SEARCH_SEEDS
            for settings, curve, test in zip(
                grid(task), self._stored["validation"][str(seed)], self._stored["test"][str(seed)], strict=True
            )
        }
        self._places = {self._key(settings, 0, task.epochs): place for place, settings in enumerate(grid(task))}
        self._extra_path = FOLDER / f"extra_{task.name}.json"
        self._extra: dict[str, Any] = json.loads(self._extra_path.read_text()) if self._extra_path.exists() else {}
        candidates = [grid(task)[int(place)] for place in self._stored["truth"]]
        self._best = max(((self.truth(settings), settings) for settings in candidates), key=lambda pair: pair[0])
        self._known |= {key: Training(*row) for key, row in self._extra.items()}

    def get(self, settings: Settings, seed: int, epochs: int | None = None) -> Training:
        """The training; made now if it is not known."""
        epochs = epochs or self.task.epochs
        key = self._key(settings, seed, epochs)
        if key not in self._known:
            self._known[key] = train(self.task, settings, seed, epochs)
            self._extra[key] = list(self._known[key])
            self.trained += 1
        return self._known[key]

    def truth(self, settings: Settings) -> float:
        """Mean test accuracy over seeds that no strategy sees.

        Settings of the grid that are far from its best have that of the seeds of the search.
        """
        place = self._places.get(self._key(settings, 0, self.task.epochs))
        if place is None:
            return float(np.mean([self.get(settings, seed).test for seed in TRUTH_SEEDS]))
        if str(place) in self._stored["truth"]:
            return float(np.mean(self._stored["truth"][str(place)]))
        return float(np.mean([self.get(settings, seed).test for seed in SEARCH_SEEDS]))

    @property
    def best(self) -> tuple[float, Settings]:
        """The best of the grid by :meth:`truth`."""
        return self._best

    @property
    def seconds(self) -> float:
        """Mean processor time of a training."""
        return float(self._stored["seconds"])

    def save(self) -> None:
        """Writes the trainings that were added."""
        rows = ",\n".join(f"{json.dumps(key)}: {json.dumps(row)}" for key, row in sorted(self._extra.items()))
        self._extra_path.write_text(f"{{\n{rows}\n}}\n")

    def _key(self, settings: Settings, seed: int, epochs: int) -> str:
        return json.dumps([*(settings[name] for name in self.task.space), seed, epochs])


@lru_cache
def table_of(task: SweepTask) -> Table:
    """The table of a task, loaded once."""
    return Table(task)


def _path(task: SweepTask) -> Path:
    return FOLDER / f"grid_{task.name}.json"


def measure(task: SweepTask, seed: int) -> None:
    """Trains the whole grid with one seed, unless it is in the file."""
    path = _path(task)
    stored: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"validation": {}, "test": {}}
    if str(seed) in stored["test"]:
        return
    started = time.process_time()
    rows = [train(task, settings, seed) for settings in grid(task)]
    stored["validation"][str(seed)] = [row.validation for row in rows]
    stored["test"][str(seed)] = [row.test for row in rows]
    stored["seconds"] = round((time.process_time() - started) / len(rows), 3)
    _write(task, stored)
    print(task.name, seed, stored["seconds"], flush=True)


def measure_truth(task: SweepTask) -> None:
    """Trains the better third of the grid with other seeds."""
    stored = json.loads(_path(task).read_text())
    if "truth" in stored:
        return
    mean = np.mean([stored["test"][str(seed)] for seed in SEARCH_SEEDS], axis=0)
    places = sorted(np.argsort(-mean, kind="stable")[: len(mean) // 3].tolist())
    settings = grid(task)
    stored["truth"] = {
        str(place): [train(task, settings[place], seed).test for seed in TRUTH_SEEDS] for place in places
    }
    _write(task, stored)
    print(task.name, "truth", flush=True)


def _write(task: SweepTask, stored: dict[str, Any]) -> None:
    parts = [
        f'"{part}": {{\n' + ",\n".join(f'"{key}": {json.dumps(row)}' for key, row in stored[part].items()) + "\n}"
        for part in ("validation", "test", "truth")
        if part in stored
    ]
    _path(task).write_text("{\n" + ",\n".join([*parts, f'"seconds": {stored["seconds"]}']) + "\n}\n")


def main() -> None:
    """Trains what is missing."""
    torch.set_num_threads(1)
    for task in TASKS:
        for seed in SEARCH_SEEDS:
            measure(task, seed)
        measure_truth(task)


if __name__ == "__main__":
    main()
