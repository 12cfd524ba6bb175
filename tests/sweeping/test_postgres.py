"""A sweep whose storage is a PostgreSQL server, with several coordinators. Needs `initdb` and `pg_ctl`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lightning_hp import sweep
from tests.forked import Forked
from tests.sweeping import postgres
from tests.sweeping.common import TRAINER, Scored, loaders

OPTIONS: dict[str, Any] = {"monitor": "val_score", "mode": "max", "trainer": TRAINER, "logdir": None}
SPACE = {"a": list(range(8))}


def build(settings: dict[str, Any]) -> Any:
    time.sleep(0.3)
    return Scored(settings["a"]), loaders()


def coordinate(url: str) -> None:
    result = sweep(build, SPACE, storage=url, **OPTIONS)
    print(result.best, len(result.trials))


@pytest.mark.skipif(not postgres.is_installed(), reason="there is no PostgreSQL server: `initdb` is not on the path")
def test_two_coordinators_share_the_trainings(tmp_path: Path):
    """They begin at the same moment, with an empty database."""
    pytest.importorskip("psycopg2")
    with postgres.server() as url:
        others = [Forked(coordinate, (url,), tmp_path) for _ in range(2)]
        assert [other.wait(240) for other in others] == [0, 0], [other.output for other in others]
        result = sweep(build, SPACE, storage=url, **OPTIONS)

        assert all(other.output.splitlines()[-1] == "{'a': 7} 8" for other in others)
        assert result.best == {"a": 7}
        complete = [trial.user_attrs for trial in result.study.trials if trial.state.name == "COMPLETE"]
        assert sorted(attrs["settings"]["a"] for attrs in complete) == SPACE["a"]
        assert sweep(build, SPACE, storage=url, **OPTIONS).trials == result.trials


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(ValueError, match=r"pip install 'lightning-hp\[postgresql\]'"):
        sweep(build, SPACE, storage="postgresql+psycopg2://nobody@127.0.0.1:1/none", **OPTIONS)
