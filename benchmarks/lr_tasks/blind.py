"""A seventh group, of combinations that the others lack: it is opened once, after a rule is fixed."""

from __future__ import annotations

from benchmarks.lr_tasks import blind_rows, blind_rows_sets, blind_sequences, blind_texts
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (
    *blind_rows.TASKS,
    *blind_rows_sets.TASKS,
    *blind_sequences.TASKS,
    *blind_texts.TASKS,
)
