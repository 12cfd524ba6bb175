"""A third group, kept apart: it is opened once, at the end, to judge a rule that was designed on other tasks."""

from __future__ import annotations

from benchmarks.lr_tasks import sealed_images, sealed_sequences, sealed_tables
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (*sealed_images.TASKS, *sealed_sequences.TASKS, *sealed_tables.TASKS)
