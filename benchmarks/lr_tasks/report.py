"""Writes ``docs/benchmarks/lr_tasks.md`` from the ground truth and the searches."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lr_tasks import both, truth
from benchmarks.lr_tasks.regret import path_of, regret, regret_of_trainings
from benchmarks.lr_tasks.task import LRTask

PATH = Path(__file__).parents[2] / "docs" / "benchmarks" / "lr_tasks.md"

#: A training with what a search found.
TRAINED = "LRFinder"

#: What else is compared, and how to find its rate in a search.
RATES: dict[str, Callable[[dict[str, Any], LRTask], float | None]] = {
    "the same, by the grid": lambda row, task: row["lr"],
    "naive guess": lambda row, task: task.naive_lr,
    "module's default": lambda row, task: task.default_lr,
    "`fall`": lambda row, task: row["rules"]["fall"],
    "`steepest`": lambda row, task: row["rules"]["steepest"],
    "`valley`": lambda row, task: row["rules"]["valley"],
    "`minimum`": lambda row, task: row["rules"]["minimum"],
    "Lightning": lambda row, task: row["lightning"],
}

METHODS = (TRAINED, *RATES)

HEAD = """# Learning rates on trainings of many kinds

What a learning rate costs: points lost by training with it instead of with the best rate of a grid of real trainings
(half decades, three seeds a rate, the schedule and the length of the task). Points are accuracy in percent, or 100 x
(explained variance, intersection over union, ...). Each search starts from the module's default rate; three seeds, none
of them of the grid.

"LRFinder" is the mean of trainings at the rate that a search found, against those from the same seeds at the best rate
of the grid: three in the first group below, one in the others. It is below zero where the rate is better than any of
the grid. One training differs from the next by the standard deviation sd, and by more where the rate is near the cliff.
All other columns read the score of a rate from the mean scores of the grid, on a line between two of its rates. That
line is below the score on a peak, and beside a rate at which some trainings diverge. "Naive guess" is 0.1 for SGD and
0.001 for Adam and its kind, typed without looking: a rate of the grid. `fall`, `steepest`, `valley` and `minimum` are
rules that read the range test of the same search. "-" is a search without an answer. What earlier versions lost is by
the grid.

`python -m benchmarks.lr_tasks.truth held_out` measures the grid, `... .regret held_out` the searches, and
`... .report` writes this page."""


def losses(group: str) -> dict[str, dict[str, list[float | None]]]:
    """Points lost by task and method, one for each search."""
    measured, rows = truth.load(group), json.loads(path_of(group).read_text())
    lost: dict[str, dict[str, list[float | None]]] = {}
    for task in truth.tasks_of(group):
        grid, searches = measured[task.name], [row for row in rows if row["task"] == task.name]
        lost[task.name] = {
            TRAINED: [None if row["lr"] is None else regret_of_trainings(grid, row["scores"]) for row in searches]
        }
        for method, rate in RATES.items():
            rates = [rate(row, task) for row in searches]
            lost[task.name][method] = [None if lr is None else regret(grid, lr) for lr in rates]
    return lost


def table(group: str) -> str:
    """One row a task and three rows of summary."""
    measured, rows, lost = truth.load(group), json.loads(path_of(group).read_text()), losses(group)
    lines = [f"| task | best rate, score | sd | steps | search | {' | '.join(METHODS)} |"]
    lines.append("|" + "---|" * (5 + len(METHODS)))
    for name, by_method in lost.items():
        means = np.mean(measured[name]["score"], axis=1)
        best = int(means.argmax())
        spread = float(np.std(measured[name]["score"][best], ddof=1))
        steps = [row["steps"] for row in rows if row["task"] == name]
        cells = [
            " / ".join("-" if x is None else f"{x:.1f}" for x in dict.fromkeys(found)) for found in by_method.values()
        ]
        start = f"| {name} | {10 ** measured[name]['log10_lr'][best]:.2g}: {means[best]:.1f} | {spread:.1f}"
        lines.append(f"{start} | {measured[name]['steps']} | {max(steps)} | {' | '.join(cells)} |")
    every = {method: [x for by_method in lost.values() for x in by_method[method]] for method in METHODS}
    answers = {method: [x for x in found if x is not None] for method, found in every.items()}
    for title, summary in (
        ("mean of the answers", lambda method: f"{np.mean(answers[method]):.2f}"),
        ("worst task", lambda method: f"{max(_mean(by_method[method]) for by_method in lost.values()):.1f}"),
        ("worst search", lambda method: f"{max(answers[method]):.1f}"),
        ("answers", lambda method: f"{len(answers[method])} of {len(every[method])}"),
    ):
        lines.append(f"| **{title}** | | | | | {' | '.join(summary(method) for method in METHODS)} |")
    return "\n".join(lines)


def _mean(lost: list[float | None]) -> float:
    """The mean of the answers; -inf without one."""
    answers = [x for x in lost if x is not None]
    return float(np.mean(answers)) if answers else -math.inf


def share_inside(group: str) -> float:
    """The share of the searches whose interval holds the best rate of the grid."""
    measured, inside = truth.load(group), []
    for row in json.loads(path_of(group).read_text()):
        best = measured[row["task"]]["log10_lr"][int(np.mean(measured[row["task"]]["score"], axis=1).argmax())]
        if row["interval"] is not None:
            inside.append(math.log10(row["interval"][0]) <= best <= math.log10(row["interval"][1]))
    return float(np.mean(inside))


def together() -> str:
    """Both callbacks against LRFinder at batch 32."""
    rows = json.loads(both.PATH.read_text())
    lines = ["| task | batch 32: score | seconds | both: score | seconds | batch sizes |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(row["task"] for row in rows):
        cells = []
        for way in ("batch 32", "both"):
            found = [row for row in rows if row["task"] == name and row["way"] == way]
            scores = [row["score"] for row in found]
            cells += [f"{np.mean(scores):.1f} (sd {np.std(scores, ddof=1):.1f})"]
            cells += [f"{np.mean([row['seconds'] for row in found]):.1f}"]
        sizes = ", ".join(str(row["batch_size"]) for row in rows if row["task"] == name and row["way"] == "both")
        lines.append(f"| {name} | {' | '.join(cells)} | {sizes} |")
    return "\n".join(lines)


GROUPS = {
    "closed": """## Tasks that were opened once, at the end

Their searches were run once, after the rule was fixed. That trainings at what they found are the measure was decided
after that: by the grid a network that reaches 82.9 at the rate found lost 7.5 points against 81.2, since beside it one
of three trainings of the grid had diverged. For the signs the grid is wrong in the other direction: at 0.1, its best
rate, six further trainings reach 65.2 (sd 5.0), and at the three rates that were found 68.4, 68.0 and 67.0.

Since then searches have the batches of the training where a module asks for `estimated_stepping_batches`. The same
searches with these other batches lose 0.70 points on average and 3.3 in the worst task, with one training each.""",
    "hidden": """## Tasks that were kept apart eighth

The searches of an eighth version on them lost 1.90 points on average and 10.1 at worst, with 33 of 33 answers (the
naive guess 14.15 and 52.1). Since then the momentum is rehearsed that `OneCycleLR` changes, without which the rates
were too low with SGD, and a rate for RAdam allows for steps that get longer by themselves: it was too high in one
task.""",
    "apart": """## Tasks that were kept apart seventh

The searches of a seventh version on them lost 1.20 points on average and 6.9 at worst, with 36 of 36 answers (the naive
guess 14.04 and 86.4). Since then the rate is not lowered for a longer training where a normalisation layer follows
weights that are trained; one task of this group showed it (with a constant rate, too low by half a decade), and two of
those below.""",
    "blind": """## Tasks that were kept apart sixth

The searches of a sixth version on them lost 3.80 points on average and 67.7 at worst, with 42 of 42 answers (the naive
guess 10.09 and 44.4); half of the searches lost at most 0.6. In the energies of clusters the loss falls from 48 to 0.8
at every rate, and the luckiest of four that differed by their noise led to chance. Since then a rate between the best
and the middle of such rates is taken. The photos are tested on parts that were not seen, where lower rates are better
than the training loss says.""",
    "unseen": """## Tasks that were kept apart fifth

The searches of a fifth version on them lost 1.27 points on average and 7.7 at worst, with 24 of 24 answers (the naive
guess 7.01 and 17.9). Since then the rate is not lowered for a longer training where the optimizer shortens its steps by
itself (RMSprop, Adagrad), which one task of this group showed, and four of those below.""",
    "reserved": """## Tasks that were kept apart fourth

The searches of a fourth version on them lost 2.09 points on average and 14.0 at worst, with 41 of 42 answers (the naive
guess 12.95 and 52.9), most of it where a schedule decays: the rates came out too low. Since then short trainings end
with a decay there.""",
    "fresh": """## Tasks that were kept apart third

The searches of a third version on them lost 2.24 points on average and 16.7 at worst (the naive guess 21.24 and 47.2).
Where the short trainings begin, and how many of them there is room for, was changed for it and the groups below.""",
    "sealed": """## Tasks that were kept apart second

The searches of a second version on them lost 6.20 points on average and 55.9 at worst (the naive guess 13.93 and 75.4):
in a deep network without normalisation, rates that look good for two hundred steps end at chance, and in a table of 300
rows over 50 epochs the lowest training loss is not the best score. The rule was changed for it, so these are tasks on
which it was designed.""",
    "held_out": """## Tasks that were kept apart first

The searches of a first version on them lost 5.66 points on average and 52.7 at worst (the naive guess 8.36 and 27.7),
nearly all in trainings of 150 to 400 steps: it started too high where the range test shows no deep valley, and looked
at higher rates only. The rule was changed for it, so these are tasks on which it was designed.""",
    "shaping": "## Tasks on which the rule was designed from the start",
}


INSIDE = "The interval holds the best rate of the grid in {:.0f} % of the searches."

TOGETHER = """## Together with BatchSizeScaler

`BatchSizeScaler()` then `LRFinder()` against `LRFinder()` at batch 32, at equal epochs, on four of the tasks; three
seeds, seconds with the searches on one CPU thread."""


def main() -> None:
    """Writes the page."""
    parts = [HEAD]
    for group, title in GROUPS.items():
        if path_of(group).exists():
            inside = INSIDE.format(100 * share_inside(group))
            parts += [title, table(group), inside]
    if both.PATH.exists():
        parts += [TOGETHER, together()]
    PATH.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
