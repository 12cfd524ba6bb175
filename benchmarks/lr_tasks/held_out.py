"""Tasks that are kept apart: they are opened once, to judge a rule that was designed on other tasks."""

from __future__ import annotations

from benchmarks.lr_tasks import held_out_images, held_out_selfsupervised, held_out_sequences, held_out_tables
from benchmarks.lr_tasks.task import LRTask

TASKS: tuple[LRTask, ...] = (
    *held_out_selfsupervised.TASKS,
    *held_out_images.TASKS,
    *held_out_tables.TASKS,
    *held_out_sequences.TASKS,
)
