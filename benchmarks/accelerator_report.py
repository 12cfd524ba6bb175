"""Writes ``accelerator.md`` from ``accelerator.json``, which a run on a card leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.pages import FOLDER, table

PATH = FOLDER / "accelerator.json"

HEAD = """\
# On an accelerator

The tests and benchmarks that need a CUDA device are one command, sized for eight minutes on one card:

```bash
make gpu    # or: python -m pytest -m gpu --accelerator-json docs/benchmarks/accelerator.json
```

It needs torch, Lightning and pytest; tests of an optional package that is missing are skipped. It runs every row of the
contract with deterministic algorithms, and compares bit for bit; SAM with a loop by hand; searches for the batch size
with the largest size that trains, found by bisection on a part of the memory; and the ratios below. The same code runs
on the CPU in every run of the test suite, with small sizes.
"""

NOT_YET_RUN = """
**Not yet run.** No card was at hand so far, so this page has no figures.
"""

FIGURES = """
Measured on {card} with driver {driver}, CUDA {cuda}, torch {torch}, pytorch-lightning {pytorch_lightning}, and
Python {python}.

## A step of SAM

Its floor is two forward and backward passes and one step of the optimizer. The callback is compared with a `fit` whose
module runs forward and backward twice.

{sam}

## A step of the search for the learning rate

{finder}

## A snapshot

Weights of {size:.0f} MB were saved in host memory and restored in {seconds:.0f} ms, at {speed:.1f} GB/s. Bare copies to
page-locked memory and back take 1/{ratio:.2f} of this time. The first snapshot, which allocates that memory, took
{first:.0f} ms.

## The search for the batch size

`BatchSizeScaler(objective="memory")` may use the whole memory. *Largest* is the largest size that trains. Time and
running out of memory are those of the search alone; *left* is the memory that is allocated and reserved after it
beyond that before it.

{searches}
"""


def load(path: Path = PATH) -> dict[str, Any] | None:
    """The figures of the last run on a card; ``None`` if there was none."""
    return json.loads(path.read_text()) if path.exists() else None


def render(figures: dict[str, Any] | None) -> str:
    """The page."""
    if figures is None:
        return HEAD + NOT_YET_RUN
    snapshot = figures["snapshot"]
    return HEAD + FIGURES.format(
        **figures["environment"],
        sam=_steps(figures["sam"], "beyond the floor"),
        finder=_steps(figures["finder"], "beyond `fit`"),
        size=snapshot["bytes"] / 1e6,
        seconds=1e3 * snapshot["seconds"],
        speed=snapshot["gb_per_second"],
        ratio=snapshot["ratio"],
        first=1e3 * snapshot["first_seconds"],
        searches=_searches(figures["searches"]),
    )


def write(path: Path = PATH) -> None:
    """Writes the page."""
    (FOLDER / "accelerator.md").write_text(render(load(path)))


def _steps(rows: list[dict[str, Any]], beyond: str) -> str:
    cells = [["model", "driver", "ms a step", beyond]]
    for row in rows:
        over = f"{row['ratio'] - 1:+.1%} ({row['low'] - 1:+.1%} to {row['high'] - 1:+.1%})"
        cells.append([row["job"], row["driver"], f"{row['step_ms']:.2f}", "" if row["ratio"] == 1 else over])
    return table(cells)


def _searches(rows: list[dict[str, Any]]) -> str:
    cells = [["model", "method", "size found", "largest", "share", "ms", "out of memory", "left, MiB"]]
    for row in rows:
        found = [row["job"], row["method"], str(row["size"] or row["error"]), str(row["largest"])]
        if row["size"]:
            left = f"{row['allocated_more'] / 2**20:.1f} and {row['reserved_more'] / 2**20:.1f}"
            found += [f"{row['share']:.0%}", f"{1e3 * row['seconds']:.0f}", str(row["ooms"]), left]
        cells.append(found + [""] * (len(cells[0]) - len(found)))
    return table(cells)


if __name__ == "__main__":
    write()
