"""The figure of the sweep benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.sweeps.strategies import quarter
from benchmarks.sweeps.summary import regrets, repetitions
from benchmarks.sweeps.tables import table_of
from benchmarks.sweeps.tasks import TASKS

PATH = Path(__file__).parents[2] / "docs" / "images" / "sweep_regret.png"
LINES = {
    "hybrid": ("#c8372d", "-", 2.6),
    "one at a time": ("#e0a100", "-", 2.0),
    "TPE": ("#1f6fb4", "-", 2.0),
    "ASHA": ("#1f6fb4", ":", 1.6),
    "random": ("#777777", "--", 1.6),
}


def draw() -> None:
    """Mean regret against the number of trainings, one panel per task."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    for ax, task in zip(figure.subplots(2, 2).flat, TASKS, strict=True):
        last = quarter(table_of(task))
        for strategy, (color, style, width) in LINES.items():
            counts = [n for n in range(2, last + 1) if regrets(task.name, strategy, n)]
            means = [float(np.mean(regrets(task.name, strategy, n))) for n in counts]
            ax.plot(counts, means, style, color=color, lw=width, label=strategy)
        whole = repetitions(task.name, "grid")[0]["steps"][-1][1]
        ax.axhline(whole, color="black", lw=1, ls="-.", label="choice from the whole grid")
        ax.axhline(0, color="#bbbbbb", lw=0.8, zorder=0)
        ax.set_yscale("symlog", linthresh=1, linscale=1.2)
        ticks = [0, 0.5, 1, 2, 5, 10, 20, 50]
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=9)
        ax.set_ylim(-0.25, 60)
        ax.set_xlim(0, last)
        ax.set_title(f"{task.name}: a quarter of the grid is {last} trainings", fontsize=11)
        ax.grid(axis="y", color="#eeeeee")
        ax.tick_params(length=2)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    figure.supxlabel("trainings", fontsize=11)
    figure.supylabel("points of test accuracy below the best of the grid", fontsize=11)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, frameon=False, fontsize=10)
    PATH.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PATH, dpi=110)
