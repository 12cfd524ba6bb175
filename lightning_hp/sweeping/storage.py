"""The Optuna storage that a sweep writes to: a file by default, or whatever the user names."""

from __future__ import annotations

import time
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_hp.functional.checks import wrong_type
from lightning_hp.sweeping.optuna_messages import quiet_optuna

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

#: Endings of a journal file; every other path is a file of SQLite.
JOURNAL_ENDINGS = (".journal", ".log")

# How databases say that another process has made the same table or row a moment ago.
_MADE_BY_ANOTHER = ("already exists", "duplicate key", "unique constraint", "database is locked")
_ATTEMPTS = 20
_SECONDS_BETWEEN_ATTEMPTS = 0.1


def storage_address(storage: Any, logdir: str | None, several_writers: bool) -> Any:
    """Where a sweep is recorded.

    Args:
        storage: A path, a URL of SQLAlchemy, a storage object of Optuna, or ``None`` for a file in ``logdir``.
        logdir: Folder of the logs, or ``None``.
        several_writers: Whether worker processes write too; SQLite locks its whole file.

    Returns:
        A path, a URL, a storage object, or ``None`` for memory.

    """
    if storage is None:
        return None if logdir is None else f"{logdir}/sweep{'.journal' if several_writers else '.db'}"
    if isinstance(storage, (str, PathLike)):
        path = fspath(storage)
        return path if "://" in path else str(Path(path).absolute())  # workers may have another working directory
    import optuna

    if not isinstance(storage, optuna.storages.BaseStorage):
        wrong_type("storage", "a path, a URL, a storage of Optuna, or None", storage)
    return storage


def in_memory(address: Any) -> bool:
    """Whether other processes cannot see what is written to this storage.

    Args:
        address: What :func:`storage_address` returned.

    """
    import optuna

    return address is None or isinstance(address, optuna.storages.InMemoryStorage)


def open_storage(address: Any) -> BaseStorage:
    """Opens a storage, and creates its file and folders.

    Args:
        address: What :func:`storage_address` returned.

    Raises:
        ValueError: If it cannot be written to.

    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    if address is None:
        return optuna.storages.InMemoryStorage()
    if not isinstance(address, str):
        storage: BaseStorage = address
        return storage
    try:
        with quiet_optuna():
            if "://" in address:
                return _open_database(address)
            path = Path(address)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in JOURNAL_ENDINGS:
                backend = JournalFileBackend(str(path))
                return optuna.storages.JournalStorage(backend)
            return _open_database(f"sqlite:///{path.resolve()}")
    except Exception as error:
        is_driver = isinstance(error, ImportError) and address.startswith("postgres")
        hint = " Run: pip install 'lightning-hp[postgresql]'" if is_driver else ""
        raise ValueError(
            f"Expected `storage` to be a file or a database that can be written, but {address} cannot be opened:"
            f" {type(error).__name__}: {' '.join(str(error).split())[:200]}{hint}"
        ) from error


def _open_database(url: str) -> BaseStorage:
    """Opens a database, and creates its tables if there are none.

    Optuna looks for the tables and then creates what is missing. Of two processes that open an empty database at the
    same moment, both see none, and one fails when it creates what the other has created; it only has to look again.
    """
    import optuna

    for _ in range(_ATTEMPTS - 1):
        try:
            return optuna.storages.get_storage(url)  # with a cache of the trials that ended
        except Exception as error:
            texts = f"{error} {error.__cause__} {error.__context__}".lower()
            if not any(words in texts for words in _MADE_BY_ANOTHER):
                raise
        time.sleep(_SECONDS_BETWEEN_ATTEMPTS)
    return optuna.storages.get_storage(url)
