"""A fifth group, of kinds that the others lack: it is opened once, after a rule is fixed."""

from __future__ import annotations

from benchmarks.lr_tasks import reserved_images, reserved_metrics, reserved_sequences, reserved_tables
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (
    *reserved_images.TASKS,
    *reserved_metrics.TASKS,
    *reserved_tables.TASKS,
    *reserved_sequences.TASKS,
)
