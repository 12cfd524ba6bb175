"""Shows a Trainer's module another moment of the training, for what depends on its counters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def simulated_progress(trainer: Any) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that sets ``global_step`` and ``current_epoch``; both are restored at the end.

    A module may read them in ``lr_scheduler_step``.

    Args:
        trainer: A Trainer with automatic optimization.

    """
    loop = trainer.fit_loop
    steps = loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
    epochs = loop.epoch_progress.current
    before = steps.completed, epochs.completed

    def set_progress(step: int, epoch: int) -> None:
        steps.completed, epochs.completed = step, epoch

    try:
        yield set_progress
    finally:
        set_progress(*before)
