"""The time limit of a Trainer (``max_time``), which a search before the training uses up."""

from __future__ import annotations

from typing import Any


def seconds_left(trainer: Any) -> float | None:
    """Seconds until the first ``Timer`` ends the training, or ``None`` if there is no limit."""
    left = [timer.time_remaining() for timer in _timers(trainer)]
    return min((seconds for seconds in left if seconds is not None), default=None)


def count_seconds(trainer: Any, seconds: float) -> None:
    """Counts time before ``on_train_start``, where a ``Timer`` starts, as time of the training.

    Args:
        trainer: A Trainer before ``on_train_start``.
        seconds: What a search took.

    """
    for timer in _timers(trainer):
        timer._offset += seconds


def _timers(trainer: Any) -> list[Any]:
    return [
        callback
        for callback in trainer.callbacks
        if any(
            base.__name__ == "Timer" and base.__module__.endswith("callbacks.timer") for base in type(callback).__mro__
        )
    ]
