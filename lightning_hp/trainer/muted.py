"""A logger that can be asked and writes nothing: what a rehearsal leaves in the place of the user's loggers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

# What a step may want to know of its logger. Everything else about a logger is a way to write.
_ANSWERS = frozenset({"name", "version", "save_dir", "log_dir", "root_dir", "group_separator"})


class _Nothing:
    """Absorbs attributes, calls, indexing and ``with``, as deep as the user's code goes."""

    def __getattr__(self, name: str) -> _Nothing:
        if name.startswith("__"):  # protocols that are not offered here must stay unknown
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> _Nothing:
        return self

    def __getitem__(self, key: Any) -> _Nothing:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *args: object) -> None:
        pass


class SilentLogger:
    """Stands in for ``logger`` during a rehearsal: its directories and names are answered, nothing is written.

    ``isinstance`` takes it for one of the logger's own class.

    Example:
        >>> from pytorch_lightning.loggers import CSVLogger
        >>> silent = SilentLogger(CSVLogger("somewhere", name="run"))
        >>> silent.log_metrics({"loss": 1.0}, step=0) and None
        >>> silent.name
        'run'

    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._logger)

    def __getattr__(self, name: str) -> Any:
        if name in _ANSWERS:
            return getattr(self._logger, name)
        if name == "hparams":
            return copy.copy(self._logger.hparams)  # it may be written into
        return getattr(_Nothing(), name)
