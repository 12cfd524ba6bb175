"""A fourth group, of kinds that the others lack: it is opened after a rule was changed for the sealed tasks."""

from __future__ import annotations

from benchmarks.lr_tasks import fresh_images, fresh_noisy, fresh_pretrained, fresh_tables
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (*fresh_images.TASKS, *fresh_noisy.TASKS, *fresh_tables.TASKS, *fresh_pretrained.TASKS)
