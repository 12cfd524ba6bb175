"""An eighth group, of longer trainings and combinations that the others lack: opened once, after a rule is fixed."""

from __future__ import annotations

from benchmarks.lr_tasks import apart_images, apart_rows, apart_sequences, apart_texts
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (*apart_rows.TASKS, *apart_sequences.TASKS, *apart_texts.TASKS, *apart_images.TASKS)
