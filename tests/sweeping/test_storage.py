"""The storage that a sweep opens: two processes may open an empty one at the same moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy

from lightning_hp.sweeping.storage import open_storage


@pytest.fixture
def created_by_another():
    """Another process creates what is missing after this one has looked, and before this one creates it."""
    addresses: list[str] = []

    def first_create(_: Any, __: Any, statement: str, *args: Any) -> None:
        if "CREATE TABLE studies" in statement and addresses:
            optuna.storages.get_storage(addresses.pop())

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", first_create)
    yield addresses
    sqlalchemy.event.remove(sqlalchemy.engine.Engine, "before_cursor_execute", first_create)


def test_an_empty_database_that_another_process_fills(created_by_another: list[str], tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'alone.db'}"
    created_by_another.append(url)
    with pytest.raises(Exception, match="already exists"):  # what Optuna alone does
        optuna.storages.get_storage(url)

    created_by_another.append(f"sqlite:///{tmp_path / 'sweep.db'}")
    storage = open_storage(str(tmp_path / "sweep.db"))
    assert not created_by_another
    assert optuna.create_study(storage=storage, study_name="one").study_name == "one"


def test_what_no_second_look_mends_is_said_at_once(monkeypatch: pytest.MonkeyPatch):
    looks: list[str] = []

    def refuse(url: str) -> None:
        looks.append(url)
        raise RuntimeError("password authentication failed")

    monkeypatch.setattr(optuna.storages, "get_storage", refuse)
    with pytest.raises(ValueError, match="password authentication failed"):
        open_storage("postgresql+psycopg2://nobody@127.0.0.1:1/none")
    assert len(looks) == 1
