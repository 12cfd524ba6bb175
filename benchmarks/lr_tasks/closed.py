"""A tenth group, of combinations that the others lack: opened once, after a rule is fixed."""

from __future__ import annotations

from benchmarks.lr_tasks import closed_images, closed_rows, closed_rows_values, closed_texts
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (
    *closed_rows.TASKS,
    *closed_rows_values.TASKS,
    *closed_texts.TASKS,
    *closed_images.TASKS,
)
