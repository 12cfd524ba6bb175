"""A ninth group, of further combinations of what users train: opened once, after a rule is fixed."""

from __future__ import annotations

from benchmarks.lr_tasks import hidden_images
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (*hidden_images.TASKS,)
