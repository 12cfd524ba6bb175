"""A seventh group, of longer trainings and combinations that the others lack: opened once, after a rule is fixed."""

from __future__ import annotations

from benchmarks.lr_tasks import blind_images, blind_rows, blind_rows_sets, blind_sequences, blind_texts
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (
    *blind_rows.TASKS,
    *blind_rows_sets.TASKS,
    *blind_sequences.TASKS,
    *blind_texts.TASKS,
    *blind_images.TASKS,
)
