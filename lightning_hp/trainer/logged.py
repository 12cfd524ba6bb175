"""Which metrics a loop of the Trainer has logged, apart from those that earlier loops left."""

from __future__ import annotations

from typing import Any


def logs_now(trainer: Any, name: str) -> bool:
    """Whether the loop that ends has logged a metric; ``trainer.callback_metrics`` also holds those of earlier loops.

    Args:
        trainer: The Trainer, in ``on_validation_end`` or ``on_train_epoch_end``.
        name: Name of the metric.

    """
    return trainer._results is not None and name in trainer._logger_connector.metrics["callback"]
