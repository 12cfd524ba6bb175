"""Writes the page ``lr_finder.md`` and its figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date

from benchmarks.ground_truth import Truth, stale_tasks
from benchmarks.lr_regret import Run, Summary, summarize
from benchmarks.lr_regret_figure import draw_regret
from benchmarks.pages import FOLDER, table, versions
from benchmarks.tasks import FORMS, TASKS

REGRET_PAGE = """\
# How good is the range test alone?

Each of {tasks} tasks on real data was trained from scratch over a grid of learning rates: one per decade from 1e-6 to
100, three per decade near the best. Each rate was trained with three seeds (six where seeds differ much), once as a
constant rate and once with `OneCycleLR(max_lr=lr)`. These trainings are the *ground truth*. Then every finder was run
{seeds} times on every task, with other seeds. The *regret* is the mean test accuracy of the best LR of the grid minus
the accuracy at the suggested LR (interpolated in log LR), in accuracy points.

{summary}

*Far off*: share of runs with a regret of more than 5 points. *Spread*: standard deviation of the suggestion over the
seeds (other initial weights, other batches) in decades, mean over the tasks, for constant LR and one-cycle. *Refused*:
share of runs without a suggestion, which are left out of all other columns. *Steps*: median number of training steps of
a search.

Every finder runs with its defaults, as its documentation shows; torch-lr-finder starts at 1e-7 as in its README. The
four rules of fastai are computed by `lightning_hp.functional` on a range test as fastai runs it (1e-7 to 10, 100 steps,
its early stop). The range tests of these two libraries do not depend on the schedule, so one serves both forms.
"Range test" is `LRFinder(suggestion="fall")`, for the one-cycle form `LRFinder(suggestion="one_cycle")`: it runs the
range test once over the whole range, then three times over the falling part, and reads the latter. With `zoom=False`
it reads three range tests of the whole range. The default of `LRFinder` adds short trainings; it is measured
[on other tasks](lr_tasks.md). The fixed rates of the last row are common defaults.

The best LR of a grid is chosen after its results are known, so even a perfect rule has a regret of about the noise
between seeds (0.2 to 1 point). The models are small, and the trainings are short and from scratch. Fine-tuning of a
pretrained network is not included, and the best LR of a short training may be too high for a long one. How the curve
is read was developed on ten other, similar tasks, and `zoom=True` was chosen by this table: on tasks of other kinds the
same rules lose far more.

![Suggested LR over best LR, for every method and task](lr_regret.png)

## All tasks

Mean / worst regret. *Best*: the best LR of the grid and its mean accuracy. *Noise*: standard deviation of the accuracy
between seeds near the best LR; smaller differences are not significant.

{every_task}

## Method

The ground truth is trained in a torch loop, for speed. {check}
The accuracy of a training is the mean of five evaluations during its last 20 steps, since with BatchNorm and a constant
LR a single evaluation can be wrong by tens of points at any LR.
{stale}
`make bench` repeats the benchmark; `python -m benchmarks --recompute` also trains the ground truth again (about half an
hour). All runs are in `lr_regret.json`. Measured on {date} with {versions}, on one CPU thread.
"""


def write_regret(runs: Sequence[Run], check: str) -> None:
    """Writes the page and the figure."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    draw_regret(runs, FOLDER / "lr_regret.png")
    stale = stale_tasks()
    page = REGRET_PAGE.format(
        tasks=len(TASKS),
        seeds=len({run.seed for run in runs}),
        summary=_summary_table(summarize(runs)),
        every_task=_task_table(runs),
        check=check,
        stale=f"The ground truth of {', '.join(stale)} was trained on other data.\n" if stale else "",
        date=date.today().isoformat(),
        versions=versions(),
    )
    (FOLDER / "lr_finder.md").write_text(page)


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
