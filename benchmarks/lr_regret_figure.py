"""The figure of the learning-rate benchmark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.ground_truth import Truth
from benchmarks.lr_regret import Run
from benchmarks.tasks import FORMS, TASKS, Form

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAND, LINE = "#cfe3d6", "#555555"
# Colour and marker encode the same value, for readers who cannot distinguish red and green.
GOOD, FAIR, FAR = ("o", "#2a9d5c"), ("D", "#e0a100"), ("X", "#c8372d")
LABELS = {GOOD: "loses at most 1 point", FAIR: "1 to 5 points", FAR: "more than 5 points"}
TITLES: dict[Form, str] = {"constant": "constant learning rate", "one_cycle": "one-cycle schedule"}
LIMITS = (1e-5, 1e3)  # values outside are drawn at the border
TICKS = {1e-4: "1e-4", 1e-2: "1e-2", 1.0: "1", 1e2: "100"}


def draw_regret(runs: Sequence[Run], path: Path) -> None:
    """Draws suggestion over best LR: one column per method, one row per form, one line per task."""
    # The variants with one repeat look like those with three, and are in the table.
    left_out = re.compile("no finder|num_repeats")
    methods = [name for name in dict.fromkeys(run.method for run in runs) if not left_out.search(name)]
    figure = Figure(figsize=(2.0 + 1.5 * len(methods), 8.8), layout="constrained")
    axes = figure.subplots(len(FORMS), len(methods), sharex=True, sharey=True, squeeze=False)
    for row, form in enumerate(FORMS):
        for column, method in enumerate(methods):
            _draw_panel(axes[row, column], [run for run in runs if (run.method, run.form) == (method, form)], form)
        axes[row, 0].set_ylabel(TITLES[form], fontsize=12)
    for column, method in enumerate(methods):
        axes[0, column].set_title(_wrapped(method), fontsize=10)
    figure.supxlabel("suggested LR / best LR of the grid", fontsize=11)
    handles = [
        Line2D([], [], marker=marker, ls="", ms=7, mec="white", color=color, label=LABELS[marker, color])
        for marker, color in LABELS
    ]
    handles.append(Line2D([], [], color=BAND, lw=8, label="LRs of the grid within 1 point of the best"))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=10)
    figure.savefig(path, dpi=110)


def _draw_panel(ax: Axes, runs: Sequence[Run], form: Form) -> None:
    for line, task in enumerate(TASKS):
        truth = Truth.load(task, form)
        low, high = truth.flat_top()
        ax.plot([low / truth.best_lr, high / truth.best_lr], [line, line], color=BAND, lw=8, zorder=1)
        for run in runs:
            if run.task == task.name and run.lr is not None and run.regret is not None:
                marker, color = GOOD if run.regret <= 1 else FAIR if run.regret <= 5 else FAR
                x = min(max(run.lr / truth.best_lr, LIMITS[0]), LIMITS[1])
                ax.plot(x, line, marker, ms=5.5, color=color, mec="white", mew=0.5, zorder=3, clip_on=False)
    ax.axvline(1.0, color=LINE, lw=0.8, zorder=2)
    ax.set_xscale("log")
    ax.set_xlim(*LIMITS)
    ax.set_xticks(list(TICKS), list(TICKS.values()), fontsize=8)
    ax.minorticks_off()
    ax.set_yticks(range(len(TASKS)), [task.name for task in TASKS], fontsize=9)
    ax.set_ylim(len(TASKS) - 0.4, -0.6)
    ax.grid(axis="x", color="#e6e6e6", lw=0.6)
    ax.tick_params(length=0)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)


def _wrapped(method: str) -> str:
    for gap in ("(", " "):
        if gap in method:
            head, tail = method.split(gap, 1)
            return f"{head}\n{gap.strip()}{tail}"
    return method
