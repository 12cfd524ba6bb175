"""Mutes a Trainer: loggers that write nothing, a profiler that measures nothing, and only chosen callbacks act."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning_hp.trainer.stand_ins import MutedProfiler, with_stand_ins

# Attributes of a logger that a training step may read. All others are ways to write.
_READABLE = frozenset({"name", "version", "save_dir", "log_dir", "root_dir", "group_separator"})


@contextmanager
def muted(trainer: Any, callbacks: Sequence[Any] | None = None) -> Iterator[None]:
    """Within the ``with`` block nothing that the Trainer runs is logged or profiled, and chosen callbacks act.

    Loggers, the profiler and the other callbacks can still be found in the Trainer, under their classes.

    Args:
        trainer: The Trainer.
        callbacks: The callbacks that act within the block, of the Trainer's own and others; ``None``: all of its own.
            For each of the others a :class:`~lightning_hp.trainer.stand_ins.MutedCallback` stands in the Trainer.

    """
    before = {name: vars(trainer)[name] for name in ("callbacks", "_loggers", "profiler")}
    trainer._loggers = [MutedLogger(logger) for logger in trainer.loggers]
    trainer.profiler = MutedProfiler(trainer.profiler)
    if callbacks is not None:
        trainer.callbacks = with_stand_ins(trainer.callbacks, callbacks)
    try:
        yield
    finally:
        vars(trainer).update(before)


class MutedLogger:
    """Replaces ``logger`` while a training is rehearsed: it has the same name and directories and writes nothing.

    ``isinstance`` takes it for an instance of the logger's own class, and its ``experiment`` accepts whatever the
    writer of that logger does (attributes, calls, indexing, ``with``). Lightning's ``DummyLogger`` does neither: it has
    no directories, is of another class, and its experiment has no nested attributes (``experiment.config.lr``).

    Args:
        logger: The user's logger.

    Example:
        >>> from pytorch_lightning.loggers import CSVLogger
        >>> logger = MutedLogger(CSVLogger("somewhere", name="run"))
        >>> logger.log_metrics({"loss": 1.0}, step=0) and None
        >>> logger.name
        'run'

    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._logger)

    def __getattr__(self, name: str) -> Any:
        if name in _READABLE:
            return getattr(self._logger, name)
        if name == "hparams":
            return copy.copy(self._logger.hparams)  # a step may write into it
        return getattr(_Null(), name)


class _Null:
    """An object that accepts every attribute, call, index and ``with``, and returns itself."""

    def __getattr__(self, name: str) -> _Null:
        if name.startswith("__"):  # a protocol that is not implemented here must stay unknown
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> _Null:
        return self

    def __getitem__(self, key: Any) -> _Null:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __enter__(self) -> _Null:
        return self

    def __exit__(self, *args: object) -> None:
        pass
