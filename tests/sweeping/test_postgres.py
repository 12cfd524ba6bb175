"""A sweep whose storage is a PostgreSQL server, with several coordinators. Needs `initdb` and `pg_ctl`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lightning_hp import sweep
from tests.sweeping import postgres
from tests.sweeping.common import TRAINER, Scored, loaders

OPTIONS: dict[str, Any] = {"monitor": "val_score", "mode": "max", "trainer": TRAINER, "logdir": None}
SPACE = {"a": list(range(8))}


def build(settings: dict[str, Any]) -> Any:
    if folder := os.environ.get("COORDINATORS"):
        (Path(folder) / str(os.getpid())).touch()
    time.sleep(0.3)
    return Scored(settings["a"]), loaders()


def coordinate(url: str) -> None:
    result = sweep(build, SPACE, storage=url, **OPTIONS)
    print(result.best, len(result.trials))


@pytest.mark.skipif(not postgres.is_installed(), reason="there is no PostgreSQL server: `initdb` is not on the path")
def test_two_coordinators_share_the_trainings(tmp_path: Path):
    pytest.importorskip("psycopg2")
    command = "import sys; from tests.sweeping.test_postgres import coordinate; coordinate(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COORDINATORS": str(tmp_path)}
    with postgres.server() as url:
        other = subprocess.Popen(
            [sys.executable, "-c", command, url], env=environment, stdout=subprocess.PIPE, text=True
        )
        while not list(tmp_path.iterdir()) and other.poll() is None:
            time.sleep(0.05)
        result = sweep(build, SPACE, storage=url, **OPTIONS)
        output = other.communicate(timeout=240)[0]

        assert output.splitlines()[-1] == "{'a': 7} 8"
        assert result.best == {"a": 7}
        complete = [trial.user_attrs for trial in result.study.trials if trial.state.name == "COMPLETE"]
        assert sorted(attrs["settings"]["a"] for attrs in complete) == SPACE["a"]
        assert sweep(build, SPACE, storage=url, **OPTIONS).trials == result.trials


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(ValueError, match=r"pip install 'lightning-hp\[postgresql\]'"):
        sweep(build, SPACE, storage="postgresql+psycopg2://nobody@127.0.0.1:1/none", **OPTIONS)
