"""Chooses the settings of an arm: the same number of trainings for each, scored on the validation split."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from benchmarks.sam_quality.arms import Arm
from benchmarks.sam_quality.tasks import Task
from benchmarks.sam_quality.training import Setting, Training

#: Factors of the learning rate that are tried with the best value of the knob.
NEIGHBOURS = {"lr": (math.sqrt(0.5), math.sqrt(2.0)), "other": (0.5, 2.0)}


def tune(task: Task, arm: Arm, start: Setting, run: Callable[[Setting], Training]) -> Setting:
    """Some values of the arm's knob, then two other learning rates at the best of them.

    Args:
        task: The training.
        arm: What is tuned.
        start: The settings before, with the suggested learning rate.
        run: Trains with a setting.

    Returns:
        The setting with the highest validation accuracy, and among equal ones with the lowest validation loss.

    """
    done = [run(replace(start, **{arm.knob: value})) for value in arm.values(task, start.lr)]
    best = max(done, key=_score).setting
    factors = NEIGHBOURS["lr" if arm.knob == "lr" else "other"]
    done += [run(replace(best, lr=best.lr * factor)) for factor in factors]
    return max(done, key=_score).setting


def _score(training: Training) -> tuple[float, float]:
    return training.val_accuracy, -training.val_loss
