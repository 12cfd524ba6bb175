"""A seventh group, of longer trainings: it is opened once, after a rule is fixed."""

from __future__ import annotations

from benchmarks.lr_tasks import blind_images
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (*blind_images.TASKS,)
