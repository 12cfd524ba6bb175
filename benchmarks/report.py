"""Writes what was measured: the pages under docs/benchmarks/."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figure import draw_regret
from benchmarks.ground_truth import Truth, stale_tasks
from benchmarks.lr_regret import Run, Summary, summarize
from benchmarks.tasks import FORMS, TASKS

if TYPE_CHECKING:
    from benchmarks.sam_cost import Cost as SamCost
    from benchmarks.step_cost import Cost

FOLDER = Path(__file__).parent.parent / "docs" / "benchmarks"
PACKAGES = ("torch", "pytorch-lightning", "torch-lr-finder", "scikit-learn", "mlxtend", "numpy")

REGRET_PAGE = """\
# How good is the suggested learning rate?

Each of {tasks} real tasks was trained from scratch over a grid of learning rates (one a decade from 1e-6 to 100, three
a decade where it matters), with three seeds each (six where seeds differ much), once with a constant LR and once with
`OneCycleLR(max_lr=lr)`. That is the truth. Then every finder was run {seeds} times on every task, with other seeds. The
*regret* is the mean test accuracy of the best LR of the grid minus the accuracy at the suggestion (interpolated in log
LR), in accuracy points.

{summary}

*Far off*: share of runs that lose more than 5 points. *Spread*: standard deviation of the suggestion over the seeds
(other initial weights, other batches), in decades, mean over the tasks, constant LR and one-cycle. *Refused*: share of
runs that gave no suggestion; they are in no other column. *Steps*: median number of training steps of a search.

Every finder runs with its defaults, the way its documentation shows it; torch-lr-finder starts at 1e-7 as in its
README. fastai's four rules are computed by `lightning_hp.functional` on a sweep as fastai makes it (1e-7 to 10, 100
steps, its early stop). Sweeps of these two do not depend on the schedule; they serve both forms. LRFinder is told
nothing of the form: it sees the scheduler and chooses its rule by it. By default it sweeps the whole range once, then
three times over the falling part alone, and reads those; with `zoom=False` it reads three sweeps of the whole range.
The fixed LRs of the last row are what one would write down without looking.

The best LR of a grid is picked after the fact, so a perfect rule would still show a regret of about the noise between
seeds (0.2 to 1 point). The models are small, the trainings short and from scratch: fine-tuning of a pretrained network
is not among them, and an LR that is best for a short training may be too high for a long one. How LRFinder reads a
curve was settled before, on ten similar tasks; that it zooms by default was decided by this table.

![Suggested LR over best LR, for every method and task](lr_regret.png)

## Every task

Mean / worst regret. *Best*: the best LR of the grid and its mean accuracy. *Noise*: standard deviation of the accuracy
between seeds, near the best LR; smaller differences mean nothing.

{every_task}

## How it was measured

The truth is trained in a plain torch loop, for speed. {check}
The accuracy of a training is the mean of five evaluations during its last 20 steps: with BatchNorm and a constant LR a
single evaluation can be tens of points off, whatever the LR.
{stale}
`make bench` repeats the benchmark, `python -m benchmarks --recompute` trains the truth anew (about half an hour). Every
single run is in `lr_regret.json`. Measured on {date} with {versions}, on one CPU thread.
"""

STEP_COST_PAGE = """\
# What a step of a finder costs

One step, from the start of a forward pass to the start of the next, in processor time on one CPU thread. `Trainer.fit`
runs without logger, progress bar, checkpoints and validation: the cheapest fit there is. All drivers run side by side
and take turns of a few steps; each turn is compared with the turn of fit beside it, and the median of these ratios is
given with its 95% interval. *The rest* is what a whole call takes beyond its steps: setup, saving and restoring the
state, teardown. torch-lr-finder works without a Trainer and calls none of its hooks.

{table}

Measured on {date} with {versions}.
"""

SAM_COST_PAGE = """\
# What a step of SAM costs

One step in processor time on one CPU thread, SGD with momentum. No form of SAM can do with less than two forward and
backward passes and one step of the optimizer; *beyond the floor* is what it takes more than that, the median of pairs
measured side by side with its 95% interval. Plain loops are compared with the plain floor, the callback with a `fit`
whose module goes forward and backward twice. A step in which SAM is not due is compared with a `fit` without it.

{table}

*Peak memory* is that of a few steps in a process of its own, beyond a process that trains hardly any weights, in units
of the weights: weights, gradients and momentum are three, less what the other process has anyway. With weights of 25 MB
the time depends on what a process gets from the system's allocator, so each figure is the median over a dozen processes
that have used their memory differently before.

Measured on {date} with {versions}.
"""


def write_regret(runs: Sequence[Run], check: str) -> None:
    """The page ``lr_finder.md`` and its picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    draw_regret(runs, FOLDER / "lr_regret.png")
    stale = stale_tasks()
    page = REGRET_PAGE.format(
        tasks=len(TASKS),
        seeds=len({run.seed for run in runs}),
        summary=_summary_table(summarize(runs)),
        every_task=_task_table(runs),
        check=check,
        stale=f"The truth of {', '.join(stale)} was trained on other data than is installed here.\n" if stale else "",
        date=date.today().isoformat(),
        versions=versions(),
    )
    (FOLDER / "lr_finder.md").write_text(page)


def write_step_cost(costs: Iterable[Cost]) -> None:
    """The page ``step_cost.md``."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = [["model", "driver", "ms a step", "ratio to fit", "the rest, ms"]]
    for cost in costs:
        ratio = f"{cost.ratio:.3f} ({cost.ratio_low:.3f} to {cost.ratio_high:.3f})"
        if cost.driver == "Trainer.fit":
            ratio = "1"
        rows.append([cost.job, cost.driver, f"{cost.step_ms:.3f}", ratio, f"{cost.rest_ms:.0f}"])
    page = STEP_COST_PAGE.format(table=table(rows), date=date.today().isoformat(), versions=versions())
    (FOLDER / "step_cost.md").write_text(page)


def write_sam_cost(costs: Iterable[SamCost]) -> None:
    """The page ``sam_cost.md``."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = [["model", "driver", "ms a step", "beyond the floor", "peak memory"]]
    for cost in costs:
        over = "a floor" if cost.is_floor else f"{cost.over:+.1%} ({cost.over_low:+.1%} to {cost.over_high:+.1%})"
        peak = "" if cost.peak is None else f"{cost.peak:.2f}"
        rows.append([cost.job, cost.driver, f"{cost.step_ms:.1f}", over, peak])
    known = versions((*PACKAGES, "pytorch_optimizer"))
    page = SAM_COST_PAGE.format(table=table(rows), date=date.today().isoformat(), versions=known)
    (FOLDER / "sam_cost.md").write_text(page)


def _summary_table(summaries: Iterable[Summary]) -> str:
    head = ["method", "constant: mean / worst", "one-cycle: mean / worst", "far off", "spread", "refused", "steps"]
    rows = [
        [
            line.method,
            f"{line.constant_mean:.2f} / {line.constant_worst:.1f}",
            f"{line.one_cycle_mean:.2f} / {line.one_cycle_worst:.1f}",
            f"{line.far_off:.0%}",
            f"{line.constant_spread:.3f} / {line.one_cycle_spread:.3f}" if line.steps else "0 / 0",
            f"{line.refused:.0%}",
            f"{line.steps:.0f}",
        ]
        for line in summaries
    ]
    return table([head, *rows])


def _task_table(runs: Sequence[Run]) -> str:
    methods = list(dict.fromkeys(run.method for run in runs))
    rows = [["task", "best", "noise", *methods]]
    for task in TASKS:
        for form in FORMS:
            truth = Truth.load(task, form)
            row = [task.name + (", one-cycle" if form == "one_cycle" else "")]
            row += [f"{truth.best_lr:.2g}: {truth.mean.max():.1f}%", f"{truth.seed_sd:.1f}"]
            for method in methods:
                here = [run for run in runs if (run.method, run.task, run.form) == (method, task.name, form)]
                regrets = [run.regret for run in here if run.regret is not None]
                row.append(f"{sum(regrets) / len(regrets):.1f} / {max(regrets):.1f}" if regrets else "refused")
            rows.append(row)
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table; the first is its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def versions(packages: Iterable[str] = PACKAGES) -> str:
    """Python and packages with their versions, in words."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])
