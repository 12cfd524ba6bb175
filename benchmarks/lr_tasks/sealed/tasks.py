"""A third group, kept apart: it is opened once, at the end, to judge a rule that was designed on other tasks."""

from __future__ import annotations

from benchmarks.lr_tasks.sealed import images, sequences, tables
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (*images.TASKS, *sequences.TASKS, *tables.TASKS)
