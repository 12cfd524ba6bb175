"""Writes ``batch_size.md`` from what the searches took and found."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.batch_limit import EXACT, Limit
from benchmarks.batch_search import LINEAR, MAX_VAL, METHODS, OURS, REPEATS, STEPS_AFTER, Injected, Search, Wall
from benchmarks.report import FOLDER, table, versions

PATH = FOLDER / "batch_search.json"
PACKAGES = ("torch", "pytorch-lightning", "accelerate", "numpy")

PAGE = """\
# What a search for the batch size costs and finds

BatchSizeScaler beside Lightning's `BatchSizeFinder` and accelerate's `find_executable_batch_size`, on the same module
and the same datamodule, each with its defaults, from batch 16 and up to {max_val}. Counted is everything from the call
of `fit` to `on_train_start`, when the size is set and the loaders of the training are built. accelerate leaves it to
the user what runs at each size, and starts where it is told; here it runs a `fit` of three steps, from {max_val} down.

The searches have not the same aim: Lightning and accelerate look for the largest batch, and so does
`objective="memory"`. The default of BatchSizeScaler looks for the smallest batch that is as fast as any; it is here for
its cost. In all of it classes and steps ask nothing (`min_per_class=0, min_steps_per_epoch=1, min_training_steps=1`).

## Under a limit that is known exactly

A module that raises `torch.OutOfMemoryError` above a limit: {limits}. Median over the limits, and of the share of the
limit that was found also the least. *Steps*: calls of `training_step`. *Loaders*: `DataLoader` constructed or copied,
for training and validation. *Iterators*: passes that were begun over one.

{injected}

With 8 batches accumulated for an optimizer step:

{accumulated}

## Wall time

Until the answer, under a limit of 777; {repeats} rounds in which all take turns, medians. *Ratio*: what
`BatchSizeScaler(objective="memory")` takes, as a share of the method's time in the same round.

{wall}

## Where memory really ends

Each search in a process of its own, whose address space is limited (`RLIMIT_AS`) to what is in use after the imports
and some MiB more. The true limit is the largest batch at which a plain `fit` of {steps_after} steps and two batches of
validation comes through, by bisection to {exact:.0%} with a fresh process for each size. *Trains*: whether the training
that followed at what was found came through as many steps and a validation.

{real}
{errors}
## Every search under a known limit

Size found / steps / loaders.

{every}

`python -m benchmarks --only batch_size` repeats it; every search is in `batch_search.json`. Measured on {date} with
{versions}, on one CPU thread.
"""


def write(injected: Sequence[Injected], walls: Sequence[Wall], limits: Sequence[Limit]) -> None:
    """The page and the file with every search."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    save({"injected": injected, "wall": walls, "limited": limits}, PATH)
    plain = [one for one in injected if one.accumulate == 1]
    page = PAGE.format(
        max_val=MAX_VAL,
        limits=", ".join(dict.fromkeys(str(one.limit) for one in plain)) + f" ({LINEAR.name})",
        injected=_injected(plain),
        accumulated=_injected([one for one in injected if one.accumulate > 1]),
        repeats=REPEATS,
        wall=_wall(walls),
        steps_after=STEPS_AFTER,
        exact=EXACT,
        real=_real(limits),
        errors=_errors(limits),
        every=_every(plain),
        date=date.today().isoformat(),
        versions=versions(PACKAGES),
    )
    (FOLDER / "batch_size.md").write_text(page)


def save(parts: dict[str, Sequence[Any]], path: Path) -> None:
    """One search, or one limit with its searches, a line."""
    lines = {name: ",\n".join(json.dumps(asdict(one)) for one in ones) for name, ones in parts.items()}
    path.write_text("{\n" + ",\n".join(f'"{name}": [\n{text}\n]' for name, text in lines.items()) + "\n}\n")


def load(path: Path) -> tuple[list[Injected], list[Wall], list[Limit]]:
    """Reads what :func:`save` wrote."""
    parts = json.loads(path.read_text())
    return (
        [Injected(**{**one, "search": Search(**one["search"])}) for one in parts["injected"]],
        [Wall(**one) for one in parts["wall"]],
        [Limit(**{**one, "searches": [Search(**search) for search in one["searches"]]}) for one in parts["limited"]],
    )


def _injected(found: Sequence[Injected]) -> str:
    rows = [["method", "steps", "loaders", "iterators", "share of the limit: median / least"]]
    for method in METHODS:
        here = [one for one in found if one.search.method == method]
        counts = [statistics.median(getattr(one.search, name) for one in here) for name in rows[0][1:4]]
        shares = [one.share for one in here]
        share = f"{statistics.median(shares):.1%} / {min(shares):.1%}" if method != "BatchSizeScaler" else "not its aim"
        rows.append([method, *(f"{count:g}" for count in counts), share])
    return table(rows)


def _wall(walls: Sequence[Wall]) -> str:
    if not walls:
        return "Not measured yet: `python -m benchmarks --only batch_wall` on a quiet machine."
    rows = [["model", "method", "size found", "seconds", "ratio"]]
    for wall in walls:
        ratio = "1" if wall.method == OURS else f"{wall.ratio:.2f}"
        rows.append([wall.subject, wall.method, str(wall.size), f"{wall.seconds:.2f}", ratio])
    return table(rows)


def _real(limits: Sequence[Limit]) -> str:
    rows = [["model", "room", "true limit", "method", "size found", "share", "trains", "steps", "loaders", "seconds"]]
    for limit in limits:
        for one in limit.searches:
            share = "none" if one.size is None else f"{one.size / limit.truth:.1%}"
            if one.method == "BatchSizeScaler":
                share = "not its aim"
            trains = "yes" if one.survived else "no"
            numbers = [trains, str(one.steps), str(one.loaders), f"{one.seconds:.1f}"]
            where = [limit.subject, f"{limit.room} MiB", str(limit.truth)]
            rows.append([*where, one.method, str(one.size or "none"), share, *numbers])
    return table(rows)


def _errors(limits: Sequence[Limit]) -> str:
    failed = [(limit, one) for limit in limits for one in limit.searches if one.error is not None]
    if not failed:
        return ""
    lines = [f"- {one.method}, {limit.subject}, {limit.room} MiB: `{one.error}`" for limit, one in failed]
    return "\nWhat ended a search or the training after it:\n\n" + "\n".join(lines) + "\n"


def _every(found: Sequence[Injected]) -> str:
    rows = [["limit", *METHODS]]
    for limit in dict.fromkeys(one.limit for one in found):
        here = {one.search.method: one.search for one in found if one.limit == limit}
        rows.append([str(limit), *(f"{one.size} / {one.steps} / {one.loaders}" for one in here.values())])
    return table(rows)
