"""Runs all trainings, saves each when it is done, and continues where an earlier run was interrupted."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.pages import FOLDER
from benchmarks.sam_quality.arms import ARMS, BASE, SAM_ARM, WEIGHT_DECAY, Arm
from benchmarks.sam_quality.tasks import TASKS, Task
from benchmarks.sam_quality.training import TUNING_SEED, Setting, Training, suggested_lr, train
from benchmarks.sam_quality.tuning import tune

#: All numbers. The trained weights are in a folder beside this file, which is not part of the repository.
RESULTS = FOLDER / "sam_quality.json"
SEEDS = (0, 1, 2, 3, 4)


class Results:
    """What is done, in a file.

    Args:
        path: The file; read if it exists.

    Attributes:
        trainings: All finished trainings.
        lrs: The suggested learning rates, by task and family.

    """

    def __init__(self, path: Path = RESULTS) -> None:
        self._path = path
        stored = json.loads(path.read_text()) if path.exists() else {"lrs": {}, "trainings": [], "sharpness": []}
        self.lrs: dict[str, float] = stored["lrs"]
        self.trainings = [Training(**row) for row in stored["trainings"]]
        self.sharpness: list[dict[str, float | str | int]] = stored["sharpness"]

    def save(self) -> None:
        """Writes the file; an interruption leaves the old or the new one."""
        rows = [json.dumps(asdict(training)) for training in self.trainings]
        numbers = [json.dumps(row) for row in self.sharpness]
        text = '{{"lrs": {},\n"trainings": [\n{}\n],\n"sharpness": [\n{}\n]}}\n'
        new = self._path.with_suffix(".new")
        new.write_text(text.format(json.dumps(self.lrs), ",\n".join(rows), ",\n".join(numbers)))
        new.replace(self._path)

    def lr(self, task: Task, family: str) -> float:
        """The suggested learning rate, found once."""
        key = f"{task.name} {family}"
        if key not in self.lrs:
            self.lrs[key] = suggested_lr(task, family, WEIGHT_DECAY[task.optimizer]) / task.lr_divisor
            self.save()
            print(f"{key}: lr {self.lrs[key]:.3g}", flush=True)
        return self.lrs[key]

    def train(self, task: Task, arm: Arm, setting: Setting, seed: int, weights: Path | None = None) -> Training:
        """A training, or what it gave in an earlier run."""
        for training in self.trainings:
            if (training.task, training.arm, training.seed, training.setting) == (task.name, arm.name, seed, setting):
                return training
        training = train(task, arm, setting, seed, weights)
        self.trainings.append(training)
        self.save()
        return training

    def finals(self, task: Task, arm: Arm) -> list[Training]:
        """The trainings that are reported, by seed."""
        found = [one for one in self.trainings if (one.task, one.arm) == (task.name, arm.name)]
        return sorted((one for one in found if one.test_accuracy is not None), key=lambda one: one.seed)


def weights_path(task: Task, arm: Arm, seed: int) -> Path:
    """Where the weights of a training are."""
    name = "".join(letter if letter.isalnum() else "-" for letter in arm.name)
    return Path(__file__).parent / "weights" / f"{task.name}_{name}_{seed}.pt"


def run_all(tasks: Sequence[Task] = TASKS, seeds: Sequence[int] = SEEDS) -> Results:
    """Tunes and trains every arm of every task."""
    results = Results()
    for task in tasks:
        chosen = _tune_all(results, task)
        for seed in seeds:  # arms in turns, so that a slow phase of the machine affects all of them alike
            for arm, setting in chosen.items():
                done = results.train(task, arm, setting, seed, weights_path(task, arm, seed))
                print(f"{task.name}, {arm.name}, {seed}: {done.test_accuracy:.2f}, {done.seconds:.1f} s", flush=True)
    return results


def _tune_all(results: Results, task: Task) -> dict[Arm, Setting]:
    chosen: dict[Arm, Setting] = {}
    for arm in ARMS:
        if arm.applies_to(task):
            chosen[arm] = tune(task, arm, _start(results, task, arm), _Run(results, task, arm))
            print(f"{task.name}, {arm.name}: {chosen[arm]}", flush=True)
    return chosen


class _Run:
    """Trains a task in an arm with the seed for tuning."""

    def __init__(self, results: Results, task: Task, arm: Arm) -> None:
        self._results, self._task, self._arm = results, task, arm

    def __call__(self, setting: Setting) -> Training:
        done = self._results.train(self._task, self._arm, setting, TUNING_SEED)
        print(f"  {self._arm.name} {setting}: {done.val_accuracy:.2f}, {done.seconds:.1f} s", flush=True)
        return done


def _start(results: Results, task: Task, arm: Arm) -> Setting:
    epochs = round(task.epochs * _time_ratio(results, task)) if arm.longer else task.epochs
    return Setting(results.lr(task, arm.family), WEIGHT_DECAY[task.optimizer], 0.0, epochs)


def _time_ratio(results: Results, task: Task) -> float:
    """How much longer a training with SAM in every step takes, in the trainings that tuned both."""
    times = {
        arm: statistics.median(
            one.seconds
            for one in results.trainings
            if (one.task, one.arm, one.test_accuracy) == (task.name, arm.name, None)
        )
        for arm in (BASE, SAM_ARM)
    }
    return times[SAM_ARM] / times[BASE]
