"""A tenth group, of combinations that the others lack: opened once, after a rule is fixed."""

from __future__ import annotations

from benchmarks.lr_tasks import closed_images
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (*closed_images.TASKS,)
