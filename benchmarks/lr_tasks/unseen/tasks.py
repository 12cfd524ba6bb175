"""A sixth, small group, of combinations that the others lack: it is opened once, after a rule is fixed."""

from __future__ import annotations

from benchmarks.lr_tasks.task import LRTask
from benchmarks.lr_tasks.unseen import images, rows

TASKS: tuple[LRTask, ...] = (*rows.TASKS, *images.TASKS)
