"""An eighth group, of longer trainings and combinations that the others lack: opened once, after a rule is fixed."""

from __future__ import annotations

from benchmarks.lr_tasks.apart import images, rows, sequences, texts
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (*rows.TASKS, *sequences.TASKS, *texts.TASKS, *images.TASKS)
