"""Tasks that are kept apart: they are opened once, to judge a rule that was designed on other tasks."""

from __future__ import annotations

from benchmarks.lr_tasks.held_out import images, selfsupervised, sequences, tables
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (
    *selfsupervised.TASKS,
    *images.TASKS,
    *tables.TASKS,
    *sequences.TASKS,
)
