"""Mutes a Trainer: loggers that write nothing, a profiler that measures nothing, and only chosen callbacks act."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning_hp.trainer.stand_ins import MutedProfiler, with_stand_ins

# Attributes of a logger that a training step may read. All others are ways to write.
_READABLE = frozenset({"name", "version", "save_dir", "log_dir", "root_dir", "group_separator"})

# Attributes of the writer of a logger that hold its directory.
_DIRECTORIES = frozenset({"log_dir", "logdir", "dir"})


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

    ``isinstance`` takes it for an instance of the logger's own class, and its ``experiment`` is a
    :class:`MutedExperiment`. Lightning's ``DummyLogger`` has no directories, is of another class, and its experiment
    has no nested attributes (``experiment.config.lr``).

    Args:
        logger: The user's logger.

    Example:
        >>> from pytorch_lightning.loggers import CSVLogger
        >>> logger = MutedLogger(CSVLogger("somewhere", name="run"))
        >>> _ = logger.log_metrics({"loss": 1.0}, step=0)
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
        experiment = MutedExperiment(self._logger)
        return experiment if name == "experiment" else getattr(experiment, name)


class MutedExperiment:
    """Stands for what a logger writes to while a training is rehearsed; what it does not know is one of these too.

    It accepts every attribute, call, index and ``with``, and writes nothing. It has no items.
    Its directory (``log_dir``, ``logdir``, ``dir``, ``get_logdir()``, ``os.fspath``) is that of the logger.

    Args:
        logger: The user's logger.

    Example:
        >>> from pytorch_lightning.loggers import CSVLogger
        >>> experiment = MutedLogger(CSVLogger("somewhere", name="run", version=0)).experiment
        >>> experiment.config.lr, len(experiment.rows), [row for row in experiment.rows]
        (MutedExperiment(), 0, [])
        >>> experiment.log_dir == os.fspath(experiment) == os.path.join("somewhere", "run", "version_0")
        True

    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a protocol that is not implemented here must stay unknown
            raise AttributeError(name)
        return os.fspath(self) if name in _DIRECTORIES else _Part(self._logger)

    def get_logdir(self) -> str:
        """The directory of the logger."""
        return os.fspath(self)

    def __call__(self, *args: Any, **kwargs: Any) -> MutedExperiment:
        """Does nothing."""
        return _Part(self._logger)

    def __getitem__(self, key: Any) -> MutedExperiment:
        return _Part(self._logger)

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __delitem__(self, key: Any) -> None:
        pass

    def __contains__(self, item: Any) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __enter__(self) -> MutedExperiment:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def __fspath__(self) -> str:
        directory = getattr(self._logger, "log_dir", None) or getattr(self._logger, "save_dir", None)
        return os.fspath(directory or os.curdir)

    def __repr__(self) -> str:
        return "MutedExperiment()"


class _Part(MutedExperiment):
    """What a muted experiment gives: false, since it is empty, so that ``while rows`` ends."""

    def __bool__(self) -> bool:
        return False
