"""Writes ``lr_scaling.md`` and draws its picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from benchmarks.lr_scaling import BASE_BATCH, JOBS, NAMES, PICKING_SEEDS, RULES, SEEDS, TIMES, Run, differences
from benchmarks.report import FOLDER, table, versions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colour, dash and marker say the same thing.
STYLES = {
    "left alone": ("#777777", ":", "o"),
    "sqrt": ("#2a6fb0", "-", "s"),
    "sqrt, warm-up": ("#2a6fb0", "--", "s"),
    "linear": ("#c8372d", "-", "^"),
    "linear, warm-up": ("#c8372d", "--", "^"),
    "retuned": ("#222222", "-", "D"),
}

LOWEST = (-12.0, -25.0)  # points, above and below

PAGE = """\
# The learning rate that goes with a larger batch

{jobs} real tasks, each with SGD (momentum 0.9) and with AdamW, were trained with batch {base} at the best learning rate
of a grid in steps of two. Then the batch grew up to {most} times **at equal epochs**, and the rate followed a rule, or
was picked anew from a grid at the larger batch: *retuned*, the yardstick. Accuracy points above or below batch {base},
mean over the tasks ± standard error (of the seeds), and the worst task.

{summary}

![Accuracy lost as the batch grows, for every rule](lr_scaling.png)

## Where the best rate went

By how many times the retuned rate is above that of batch {base}: geometric mean over the tasks, the range, and the
exponent p in k^p. The square root is p = 0.5, linear is p = 1.

{exponents}

## What a warm-up gives

Accuracy with a warm-up less without, at the same rate; ± standard error. The warm-up rises from the rate of batch
{base} for five epochs, a tenth of the training at most, also where none would be advised.

{warmups}

## Every task at {most} times the batch

Accuracy of batch {base} in percent, and the points above or below it. *Steps*: optimizer steps of the whole training at
{most} times the batch. *p*: the exponent of the retuned rate.

{every}

## How it was measured

{seeds} seeds a number, paired: the same initial weights at every batch size. Rates are picked with {picking} other
seeds, else the picked ones would be flattered, as the middle of the top of the grid: accuracy smoothed over neighbours.
All trainings see exactly as many samples, in full batches, with a cosine decay to zero over the whole training.

The tasks are small and the trainings short: at {most} times the batch {fewest} to {many} steps are left, and what even
the retuned rate loses there is lost for want of steps. Two points between two rules on one task can be chance, and so
can a training that diverges or not at a rate on the edge of what can be trained. `lr_scaling="auto"` says what this
table says: linear for SGD, the square root for Adam and its kin.

`python -m benchmarks --only lr_scaling` repeats it (some 15 minutes on two cores); every run is in `lr_scaling.json`.
Measured on {date} with {versions}, on one CPU thread each.
"""


def write(runs: Sequence[Run]) -> None:
    """The page and its picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    draw(runs, FOLDER / "lr_scaling.png")
    jobs = list(dict.fromkeys(run.job for run in runs))
    left = [job.num_steps(BASE_BATCH * TIMES[-1]) for job in JOBS if job.name in jobs]
    page = PAGE.format(
        jobs=len(jobs),
        base=BASE_BATCH,
        most=TIMES[-1],
        summary=_summary(runs),
        exponents=_exponents(runs),
        warmups=_warmups(runs),
        every=_every(runs, jobs),
        seeds=len(SEEDS),
        picking=len(PICKING_SEEDS),
        fewest=min(left),
        many=max(left),
        date=date.today().isoformat(),
        versions=versions(("torch", "scikit-learn", "mlxtend", "numpy")),
    )
    (FOLDER / "lr_scaling.md").write_text(page)


def _summary(runs: Sequence[Run]) -> str:
    rows = [["optimizer", "batch", *RULES]]
    for optimizer, name in NAMES.items():
        for times in TIMES:
            lost = [differences(runs, optimizer, rule, times) for rule in RULES]
            cells = [f"{one.mean:+.1f} ± {one.error:.1f} ({one.worst:+.1f})" for one in lost]
            rows.append([name, f"{BASE_BATCH * times} (x{times})", *cells])
    return table(rows)


def _exponents(runs: Sequence[Run]) -> str:
    rows = [["optimizer", *(f"x{times}" for times in TIMES)]]
    for optimizer, name in NAMES.items():
        row = [name]
        for times in TIMES:
            factors = [_factor(runs, optimizer, times, job) for job in dict.fromkeys(run.job for run in runs)]
            mean = statistics.geometric_mean(factors)
            power = math.log(mean) / math.log(times)
            row.append(f"{mean:.2g} ({min(factors):.2g} to {max(factors):.2g}), p = {power:.2f}")
        rows.append(row)
    return table(rows)


def _factor(runs: Sequence[Run], optimizer: str, times: int, job: str) -> float:
    """The retuned LR over that of the base batch."""
    lrs = {(run.rule, run.times): run.lr for run in runs if (run.job, run.optimizer) == (job, optimizer)}
    return lrs["retuned", times] / lrs["base", 1]


def _warmups(runs: Sequence[Run]) -> str:
    rows = [["optimizer", "rule", *(f"x{times}" for times in TIMES)]]
    for optimizer, name in NAMES.items():
        for rule in ("linear", "sqrt"):
            gains = [differences(runs, optimizer, f"{rule}, warm-up", times, to=rule) for times in TIMES]
            rows.append([name, rule, *(f"{one.mean:+.2f} ± {one.error:.2f}" for one in gains)])
    return table(rows)


def _every(runs: Sequence[Run], jobs: Sequence[str]) -> str:
    times = TIMES[-1]
    steps = {job.name: job.num_steps(BASE_BATCH * times) for job in JOBS}
    rows = [["task", "optimizer", "steps", f"batch {BASE_BATCH}", "p", *RULES]]
    for job in jobs:
        for optimizer, name in NAMES.items():
            base = [run for run in runs if (run.job, run.optimizer, run.rule) == (job, optimizer, "base")]
            power = math.log(_factor(runs, optimizer, times, job)) / math.log(times)
            row = [job, name, str(steps[job]), f"{statistics.mean(run.accuracy for run in base):.1f}", f"{power:.2f}"]
            row += [f"{differences(runs, optimizer, rule, times).by_job[job]:+.1f}" for rule in RULES]
            rows.append(row)
    return table(rows)


def _plot(ax: Axes, values: Sequence[float], lowest: float, style: dict[str, Any]) -> None:
    """A line; what lies below the picture is drawn at its border, with its value."""
    ax.plot(TIMES, [max(value, lowest) for value in values], clip_on=False, **style)
    for times, value in zip(TIMES, values, strict=True):
        if value < lowest:
            ax.annotate(f"{value:.0f}", (times, lowest), (-8, 4), textcoords="offset points", ha="right", fontsize=9)


def draw(runs: Sequence[Run], path: Path) -> None:
    """A column for each optimizer: above the mean over the tasks, below the task that loses most."""
    figure = Figure(figsize=(11, 7.2), layout="constrained")
    axes = figure.subplots(2, len(NAMES), sharex=True, sharey="row", squeeze=False)
    for column, (optimizer, name) in enumerate(NAMES.items()):
        for rule in RULES:
            color, dash, marker = STYLES[rule]
            lost = [differences(runs, optimizer, rule, times) for times in TIMES]
            style = {"color": color, "ls": dash, "marker": marker, "ms": 5, "lw": 1.8, "label": rule}
            _plot(axes[0, column], [one.mean for one in lost], LOWEST[0], style)
            _plot(axes[1, column], [one.worst for one in lost], LOWEST[1], style)
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel(f"times the batch of {BASE_BATCH}")
        for ax in axes[:, column]:
            ax.set_ylim(LOWEST[0] if ax is axes[0, column] else LOWEST[1], 1.0)
            ax.axhline(0.0, color="#bbbbbb", lw=0.8, zorder=0)
            ax.set_xscale("log", base=2)
            ax.set_xticks(TIMES, [f"{times}" for times in TIMES])
            ax.minorticks_off()
            ax.grid(axis="y", color="#eeeeee")
            for side in ("top", "right"):
                ax.spines[side].set_visible(False)
    axes[0, 0].set_ylabel("accuracy points to batch 16, mean of tasks")
    axes[1, 0].set_ylabel("worst task")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(RULES), frameon=False)
    figure.savefig(path, dpi=110)
