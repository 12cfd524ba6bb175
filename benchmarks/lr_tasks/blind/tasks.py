"""A seventh group, of longer trainings and combinations that the others lack: opened once, after a rule is fixed."""

from __future__ import annotations

from benchmarks.lr_tasks.blind import images, rows, rows_sets, sequences, texts
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (
    *rows.TASKS,
    *rows_sets.TASKS,
    *sequences.TASKS,
    *texts.TASKS,
    *images.TASKS,
)
