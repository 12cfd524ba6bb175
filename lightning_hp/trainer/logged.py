"""What a Trainer has logged: by the loop that ends, and before a rehearsal."""

from __future__ import annotations

from typing import Any


def logs_now(trainer: Any, name: str) -> bool:
    """Whether the loop that ends has logged a metric; ``trainer.callback_metrics`` also holds those of earlier loops.

    Args:
        trainer: The Trainer, in ``on_validation_end`` or ``on_train_epoch_end``.
        name: Name of the metric.

    """
    return trainer._results is not None and name in trainer._logger_connector.metrics["callback"]


def collect_apart(trainer: Any, own: Any) -> None:
    """Collects what is logged from now on in a new place, where what was logged so far can still be read.

    Args:
        trainer: The Trainer.
        own: Its own ``_logger_connector``, into which nothing is written.

    """
    connector = trainer._logger_connector = type(own)(trainer)
    for name in ("_callback_metrics", "_logged_metrics", "_progress_bar_metrics"):
        getattr(connector, name).update(getattr(own, name))
