"""A ninth group, of combinations that the others lack: opened once, after a rule is fixed."""

from __future__ import annotations

from benchmarks.lr_tasks.hidden import images, rows, rows_values, texts
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (
    *rows.TASKS,
    *rows_values.TASKS,
    *texts.TASKS,
    *images.TASKS,
)
