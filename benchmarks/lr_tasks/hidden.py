"""A ninth group, of combinations that the others lack: opened once, after a rule is fixed."""

from __future__ import annotations

from benchmarks.lr_tasks import hidden_images, hidden_rows, hidden_rows_values, hidden_texts
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (
    *hidden_rows.TASKS,
    *hidden_rows_values.TASKS,
    *hidden_texts.TASKS,
    *hidden_images.TASKS,
)
