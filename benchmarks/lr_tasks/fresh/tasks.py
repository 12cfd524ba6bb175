"""A fourth group, of kinds that the others lack: it is opened after a rule was changed for the sealed tasks."""

from __future__ import annotations

from benchmarks.lr_tasks.fresh import images, noisy, pretrained, tables
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (*images.TASKS, *noisy.TASKS, *tables.TASKS, *pretrained.TASKS)
