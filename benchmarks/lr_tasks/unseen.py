"""A sixth, small group, of combinations that the others lack: it is opened once, after a rule is fixed."""

from __future__ import annotations

from benchmarks.lr_tasks import unseen_images, unseen_rows
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (*unseen_rows.TASKS, *unseen_images.TASKS)
