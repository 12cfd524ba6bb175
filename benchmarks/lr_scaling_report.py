"""Writes the page ``lr_scaling.md`` and its figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from benchmarks.lr_scaling import BASE_BATCH, JOBS, NAMES, PICKING_SEEDS, RULES, SEEDS, TIMES, Run, differences
from benchmarks.pages import FOLDER, table, versions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colour, line style and marker of each rule.
STYLES = {
    "unchanged": ("#777777", ":", "o"),
    "sqrt": ("#2a6fb0", "-", "s"),
    "sqrt, warm-up": ("#2a6fb0", "--", "s"),
    "linear": ("#c8372d", "-", "^"),
    "linear, warm-up": ("#c8372d", "--", "^"),
    "retuned": ("#222222", "-", "D"),
}

LOWEST = (-12.0, -25.0)  # lower limits of the upper and lower axes, in points

PAGE = """\
# Scaling the learning rate with the batch size

{jobs} tasks on real data were trained with SGD (momentum 0.9) and with AdamW, with batch size {base} at the best
learning rate of a grid with factor two. The batch size was then multiplied by up to {most} **at equal epochs**. The
learning rate followed a rule, or was selected again from a grid at the larger batch size (*retuned*, the reference).
The table shows the accuracy minus that of batch size {base} in points: mean over the tasks ± standard error (of the
seeds), and the worst task.

{summary}

![Accuracy lost with larger batches, for every rule](lr_scaling.png)

## Retuned rates

The retuned rate divided by the rate of batch size {base}: geometric mean over the tasks, the range, and the exponent p
in k^p. The square root is p = 0.5, linear is p = 1.

{exponents}

## Effect of a warm-up

Accuracy with a warm-up minus accuracy without one, at the same rate, ± standard error. The warm-up starts at the rate
of batch size {base} and lasts five epochs, at most a tenth of the training, also where no warm-up is recommended.

{warmups}

## All tasks at {most} times the batch size

The accuracy of batch size {base} in percent, and the differences to it in points. *Steps*: optimizer steps of the whole
training at {most} times the batch size. *p*: the exponent of the retuned rate.

{every}

## Method

Each number is the mean of {seeds} seeds, paired: the initial weights are the same at every batch size. Rates are
selected with {picking} other seeds, since otherwise their accuracy is biased. The selected rate is the best one of the
grid after smoothing the accuracy over neighbours. All trainings use exactly as many samples, in full batches, with a
cosine decay to zero over the whole training.

The tasks are small and the trainings are short: at {most} times the batch size {fewest} to {many} steps are left, and
the retuned rate loses accuracy because the steps are few. A difference of two points between two rules on one task
can be chance, and so can the divergence of a training at the largest usable rates. `lr_scaling="auto"` follows this
table: linear for SGD, the square root for Adam and related optimizers.

`python -m benchmarks --only lr_scaling` repeats the benchmark (about 15 minutes on two cores); all runs are in
`lr_scaling.json`. Measured on {date} with {versions}, on one CPU thread each.
"""


def write(runs: Sequence[Run]) -> None:
    """Writes the page and the figure."""
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
    """The retuned LR divided by the LR of the base batch size."""
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
    """Draws a line; values below the axes are drawn at the border, with their number."""
    ax.plot(TIMES, [max(value, lowest) for value in values], clip_on=False, **style)
    for times, value in zip(TIMES, values, strict=True):
        if value < lowest:
            ax.annotate(f"{value:.0f}", (times, lowest), (-8, 4), textcoords="offset points", ha="right", fontsize=9)


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draws one column per optimizer: above the mean over the tasks, below the task that loses most."""
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
        axes[1, column].set_xlabel(f"batch size / {BASE_BATCH}")
        for ax in axes[:, column]:
            ax.set_ylim(LOWEST[0] if ax is axes[0, column] else LOWEST[1], 1.0)
            ax.axhline(0.0, color="#bbbbbb", lw=0.8, zorder=0)
            ax.set_xscale("log", base=2)
            ax.set_xticks(TIMES, [f"{times}" for times in TIMES])
            ax.minorticks_off()
            ax.grid(axis="y", color="#eeeeee")
            for side in ("top", "right"):
                ax.spines[side].set_visible(False)
    axes[0, 0].set_ylabel(f"points vs. batch size {BASE_BATCH}, mean of tasks")
    axes[1, 0].set_ylabel("worst task")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(RULES), frameon=False)
    figure.savefig(path, dpi=110)
