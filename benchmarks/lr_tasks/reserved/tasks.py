"""A fifth group, of kinds that the others lack: it is opened once, after a rule is fixed."""

from __future__ import annotations

from benchmarks.lr_tasks.reserved import images, metrics, sequences, tables
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (
    *images.TASKS,
    *metrics.TASKS,
    *tables.TASKS,
    *sequences.TASKS,
)
