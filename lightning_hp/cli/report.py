"""``lightning-hp report``: table, effects and the best config of a stored sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lightning_hp.cli.errors import WrongInputError, as_wrong_input
from lightning_hp.functional.sweep.labels import short_label
from lightning_hp.reporting.loggers import cell_text

if TYPE_CHECKING:
    from lightning_hp.results import SweepResult


def run_report(where: str, name: str | None, printed: str | None) -> int:
    """Prints what a sweep found; returns the exit code."""
    with as_wrong_input():
        from lightning_hp.sweeping.extras import require

        require("optuna", "sweep")
        require("yaml", "sweep")
        from lightning_hp.sweeping.stored import load_result

        result = load_result(_storage_in(where), name)
    is_scored = any(trial.status == "complete" for trial in result.trials)
    if printed is not None:
        if not is_scored:
            raise WrongInputError("Expected settings that were trained with every seed, but there are none.")
        print(result.to_yaml(which=printed), end="")
        return 0
    print(result)
    if result.trials:
        print(f"\n{_table(result)}")
    for trial in result.trials:
        if trial.status == "failed":
            settings = ", ".join(f"{name}={short_label(value)}" for name, value in trial.settings.items())
            print(f"failed: {settings}, seed {trial.seed}: {trial.reason}")
    if is_scored:
        print(f"\nbest config:\n{result.to_yaml(which='best')}", end="")
    return 0


def _storage_in(where: str) -> str:
    """The storage of a folder of logs; a path or URL is itself a storage."""
    if "://" in where:
        return where
    path = Path(where)
    if path.is_file():
        return where
    found = [file for file in (path / "sweep.db", path / "sweep.journal") if file.is_file()]
    if not found:
        what = "a folder with sweep.db or sweep.journal" if path.is_dir() else "the storage of a sweep, or its folder"
        raise ValueError(f"Expected {what}, but there is none at {where}.")
    return str(max(found, key=lambda file: file.stat().st_mtime))


def _table(result: SweepResult) -> str:
    """All settings, the best first, in aligned columns."""
    header, rows = result.table()
    cells = [header, *([cell_text(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
