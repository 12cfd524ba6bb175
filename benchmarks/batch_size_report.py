"""Writes the page ``batch_size.md`` and the file with all searches."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import batch_size_price
from benchmarks.batch_size_memory_limit import TOLERANCE, Limit
from benchmarks.batch_size_search import (
    LINEAR,
    MAX_VAL,
    METHODS,
    REPEATS,
    SCALER,
    STEPS_AFTER,
    Injected,
    Search,
    Wall,
)
from benchmarks.pages import FOLDER, table, versions

PATH = FOLDER / "batch_size_search.json"
PACKAGES = ("torch", "pytorch-lightning", "accelerate", "numpy")
OTHER_OBJECTIVE = "other objective"

PAGE = """\
# Cost and result of batch-size searches

BatchSizeScaler is compared with Lightning's `BatchSizeFinder` and accelerate's `find_executable_batch_size` on the same
module and the same datamodule. Each runs with its defaults, starts at batch size 16 and goes up to {max_val}. Counted
is everything from the call of `fit` to `on_train_start`, when the size is set and the training loaders are built. With
accelerate, the user defines what runs at each size and where the search starts; here it runs a `fit` of three steps and
goes down from {max_val}.

The searches have different objectives. Lightning, accelerate and `objective="memory"` look for the largest batch. The
default of BatchSizeScaler looks for the smallest batch that is about as fast as any larger one; it is listed for its
cost only. Bounds by classes and steps are switched off (`min_per_class=0`,
`limits={{"min_steps_per_epoch": 1, "min_training_steps": 1, "min_step_share": 1e-6}}`).

## What the larger batch costs

BatchSizeScaler with its defaults, then LRFinder, against LRFinder at the task's own batch size: trained for equal
epochs on real data, {seeds} seeds. *Points*: 100 x accuracy or explained variance on other data. *Difference*: mean and
standard error over the seeds. *Times as fast*: the seconds of the training, without the searches, at the own size
divided by those at the found one; the median over the seeds. `limits={{"min_step_share": ...}}` trades one for the
other.

{price}

## With a known limit

The module raises `torch.OutOfMemoryError` above a limit: {limits}. The table shows medians over the limits, and for the
found share of the limit also the minimum. *Steps*: calls of `training_step`. *Loaders*: constructed or copied
`DataLoader`s for training and validation. *Iterators*: iterations that were started over one.

{injected}

With 8 batches accumulated per optimizer step:

{accumulated}

## Wall time

Time until the result with a limit of 777: medians over {repeats} rounds, in which all methods run in turn. *Ratio*: the
time of `BatchSizeScaler(objective="memory")` divided by the time of the method in the same round. Where the machine is
shared, as it was here, only the ratios count.

{wall}

## In limited memory

Each search runs in a process of its own, whose address space is limited (`RLIMIT_AS`) to what is in use after the
imports plus some MiB (*available*). The true limit is the largest batch size at which a `fit` of {steps_after} steps
and two validation batches succeeds, found by bisection to {exact:.0%} with a new process for each size. *Trains*:
whether the training at the found size ran for as many steps and a validation.

{real}
{errors}
## All searches with a known limit

Found size / steps / loaders.

{every}

`python -m benchmarks --only batch_size` repeats the benchmark; all searches are in
`batch_size_search.json`. `python -m benchmarks.batch_size_price` trains what `batch_size_price.json` lacks.
Measured on {date} with {versions}, on one CPU thread.
"""


def write(injected: Sequence[Injected], walls: Sequence[Wall], limits: Sequence[Limit]) -> None:
    """Writes the page and the file with all searches."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    save({"injected": injected, "wall": walls, "limited": limits}, PATH)
    single = [one for one in injected if one.accumulate == 1]
    page = PAGE.format(
        max_val=MAX_VAL,
        seeds=len(batch_size_price.SEEDS),
        price=batch_size_price.section(batch_size_price.load()),
        limits=", ".join(dict.fromkeys(str(one.limit) for one in single)) + f" ({LINEAR.name})",
        injected=_injected(single),
        accumulated=_injected([one for one in injected if one.accumulate > 1]),
        repeats=REPEATS,
        wall=_wall(walls),
        steps_after=STEPS_AFTER,
        exact=TOLERANCE,
        real=_real(limits),
        errors=_errors(limits),
        every=_every(single),
        date=date.today().isoformat(),
        versions=versions(PACKAGES),
    )
    (FOLDER / "batch_size.md").write_text(page)


def save(parts: dict[str, Sequence[Any]], path: Path) -> None:
    """Writes one line per search, or per limit with its searches."""
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
    rows = [["method", "steps", "loaders", "iterators", "share of the limit: median / minimum"]]
    for method in METHODS:
        here = [one for one in found if one.search.method == method]
        counts = [statistics.median(getattr(one.search, name) for one in here) for name in rows[0][1:4]]
        shares = [one.share for one in here]
        share = (
            f"{statistics.median(shares):.1%} / {min(shares):.1%}" if method != "BatchSizeScaler" else OTHER_OBJECTIVE
        )
        rows.append([method, *(f"{count:g}" for count in counts), share])
    return table(rows)


def _wall(walls: Sequence[Wall]) -> str:
    if not walls:
        return "Not measured yet. `python -m benchmarks --only batch_wall` measures it on an idle machine."
    rows = [["model", "method", "found size", "seconds", "ratio"]]
    for wall in walls:
        ratio = "1" if wall.method == SCALER else f"{wall.ratio:.2f}"
        rows.append([wall.model, wall.method, str(wall.size), f"{wall.seconds:.2f}", ratio])
    return table(rows)


def _real(limits: Sequence[Limit]) -> str:
    rows = [
        ["model", "available", "true limit", "method", "found size", "share", "trains", "steps", "loaders", "seconds"]
    ]
    for limit in limits:
        for one in limit.searches:
            share = "none" if one.size is None else f"{one.size / limit.truth:.1%}"
            if one.method == "BatchSizeScaler":
                share = OTHER_OBJECTIVE
            trains = "yes" if one.survived else "no"
            numbers = [trains, str(one.steps), str(one.loaders), f"{one.seconds:.1f}"]
            where = [limit.model, f"{limit.available_mib} MiB", str(limit.truth)]
            rows.append([*where, one.method, str(one.size or "none"), share, *numbers])
    return table(rows)


def _errors(limits: Sequence[Limit]) -> str:
    failed = [(limit, one) for limit in limits for one in limit.searches if one.error is not None]
    if not failed:
        return ""
    lines = [f"- {one.method}, {limit.model}, {limit.available_mib} MiB: `{one.error}`" for limit, one in failed]
    return "\nErrors that ended a search or the training after it:\n\n" + "\n".join(lines) + "\n"


def _every(found: Sequence[Injected]) -> str:
    rows = [["limit", *METHODS]]
    for limit in dict.fromkeys(one.limit for one in found):
        here = {one.search.method: one.search for one in found if one.limit == limit}
        rows.append([str(limit), *(f"{one.size} / {one.steps} / {one.loaders}" for one in here.values())])
    return table(rows)
