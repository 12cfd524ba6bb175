"""Writes the page ``sam_quality.md`` and its figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from benchmarks.pages import FOLDER, table, versions
from benchmarks.sam_quality.arms import ARMS, BASE, DECAY, LONGER, SAM_ARM, TUNED_DECAY, WARM_UP, WEIGHT_DECAY, Arm
from benchmarks.sam_quality.page import PAGE
from benchmarks.sam_quality.run import SEEDS, Results
from benchmarks.sam_quality.sharpness import ASCENT_STEPS, EXTENT, LARGE, RADII
from benchmarks.sam_quality.tasks import TASKS, Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colour and marker of each arm: SAM in every step, in a part of the training, without SAM.
STYLES = {
    "base": ("#222222", "o"),
    "base, SAM's time": ("#222222", "D"),
    "base, weight decay tuned": ("#222222", "s"),
    "SAM": ("#c8372d", "o"),
    "ASAM": ("#c8372d", "^"),
    "SAM, interval=2": ("#e08a2c", "v"),
    "SAM, params='norm'": ("#e08a2c", "P"),
    "SAM, last 57 %": ("#a6cbe8", "o"),
    "SAM, last 30 %": ("#6aa5d8", "o"),
    "SAM, start='decay'": ("#2a6fb0", "*"),
    "SAM, last 10 %": ("#123f6b", "o"),
}

#: A difference of more standard errors is printed bold: the 5 % level of a t-test with five seeds.
CLEAR = 2.8

TAILS = tuple(arm for arm in ARMS if arm.sam and "start" in arm.sam)


@dataclass(frozen=True)
class Row:
    """One arm in one task."""

    task: Task
    arm: Arm
    accuracies: tuple[float, ...]
    times: tuple[float, ...]
    chosen: str
    passes: float

    @property
    def accuracy(self) -> str:
        """Mean and standard deviation."""
        return f"{statistics.mean(self.accuracies):.1f} ± {statistics.stdev(self.accuracies):.1f}"

    def lead(self, other: Row) -> tuple[float, float]:
        """The mean difference to another arm on the same seeds, and its standard error."""
        gains = [one - two for one, two in zip(self.accuracies, other.accuracies, strict=True)]
        return statistics.mean(gains), statistics.stdev(gains) / math.sqrt(len(gains))

    def cost(self, base: Row) -> float:
        """The median ratio of the times on the same seed."""
        return statistics.median(one / two for one, two in zip(self.times, base.times, strict=True))


Rows = dict[str, Row]


def write(results: Results, folder: Path = FOLDER) -> None:
    """Writes the page and its figure, with the tasks whose trainings are all done."""
    tasks = {task.name: _rows(results, task) for task in TASKS}
    repeated = [rows for task in TASKS if task.lr_divisor != 1 and (rows := tasks.pop(task.name))]
    tasks = {name: rows for name, rows in tasks.items() if rows}
    draw(tasks).savefig(folder / "sam_quality.png", dpi=110)
    seconds = sum(one.seconds for one in results.trainings)
    page = PAGE.format(
        tasks=len(tasks),
        clear=CLEAR,
        arms=len(ARMS),
        seeds=len(SEEDS),
        decay=DECAY,
        warm_up=WARM_UP,
        sgd=WEIGHT_DECAY["SGD"],
        adamw=WEIGHT_DECAY["AdamW"],
        summary=_summary(tasks),
        tails=_tails(tasks),
        every="\n\n".join(_task_table(rows) for rows in tasks.values()),
        repeated="\n\n".join(_task_table(rows) for rows in repeated),
        sharpness=_sharpness(results, tasks),
        steps=ASCENT_STEPS,
        samples=EXTENT[0],
        sharpness_seeds=EXTENT[1],
        large=" and ".join(f"{number} and {seeds} for `{name}`" for name, (number, seeds) in LARGE.items()),
        hours=seconds / 3600,
        date=date.today().isoformat(),
        versions=versions(("torch", "pytorch-lightning")),
    )
    (folder / "sam_quality.md").write_text(page)


def _rows(results: Results, task: Task) -> Rows:
    """All arms of a task by name; empty if one is not complete."""
    arms = [arm for arm in ARMS if arm.applies_to(task)]
    finals = {arm: results.finals(task, arm) for arm in arms}
    if any(tuple(one.seed for one in done) != SEEDS for done in finals.values()):
        return {}
    rows = {}
    for arm, done in finals.items():
        one = done[0]
        knob = "" if arm.knob == "lr" else f", {arm.knob.replace('_', ' ')} {getattr(one, arm.knob):g}"
        passes = one.epochs / task.epochs * (1 + arm.share)
        accuracies = tuple(float(each.test_accuracy or 0) for each in done)
        chosen = f"lr {one.lr:.2g}{knob}"
        rows[arm.name] = Row(task, arm, accuracies, tuple(each.seconds for each in done), chosen, passes)
    return rows


def _points(lead: tuple[float, float]) -> str:
    mean, error = lead
    number = f"{mean:+.1f} ± {error:.1f}"
    return f"**{number}**" if abs(mean) > CLEAR * error else number


def _present(tasks: dict[str, Rows], arm: Arm) -> list[Rows]:
    return [rows for rows in tasks.values() if arm.name in rows]


def _summary(tasks: dict[str, Rows]) -> str:
    head = ["arm", "against the base", "better, worse", "against tuned weight decay", "better, worse", "time", "tasks"]
    lines = [head]
    for arm in ARMS:
        present = _present(tasks, arm)
        cells = [f"`{arm.name}`" if "=" in arm.name else arm.name]
        for other in (BASE, TUNED_DECAY):
            leads = [rows[arm.name].lead(rows[other.name]) for rows in present]
            better = sum(mean > CLEAR * error for mean, error in leads)
            worse = sum(mean < -CLEAR * error for mean, error in leads)
            cells += ["", ""] if arm is other else [_points(_mean_lead(leads)), f"{better}, {worse}"]
        time = statistics.median(rows[arm.name].cost(rows[BASE.name]) for rows in present)
        lines.append([*cells, f"{time:.2f}", str(len(present))])
    return table(lines)


def _mean_lead(leads: Sequence[tuple[float, float]]) -> tuple[float, float]:
    mean = statistics.mean(mean for mean, _ in leads)
    return mean, math.sqrt(sum(error**2 for _, error in leads)) / len(leads)


def _tails(tasks: dict[str, Rows]) -> str:
    lines = [["task", "SAM against the base", *(arm.name for arm in TAILS)]]
    for rows in tasks.values():
        full, base = rows[SAM_ARM.name], rows[BASE.name]
        leads = [_points(rows[arm.name].lead(full)) for arm in TAILS]
        lines.append([full.task.title, _points(full.lead(base)), *leads])
    means = [_points(_mean_lead([rows[arm.name].lead(rows[SAM_ARM.name]) for rows in tasks.values()])) for arm in TAILS]
    full = _mean_lead([rows[SAM_ARM.name].lead(rows[BASE.name]) for rows in tasks.values()])
    lines.append(["mean", _points(full), *means])
    times = [
        f"{statistics.median(rows[arm.name].cost(rows[BASE.name]) for rows in tasks.values()):.2f}"
        for arm in (SAM_ARM, *TAILS)
    ]
    lines.append(["time over the base", *times])
    return table(lines)


def _task_table(rows: Rows) -> str:
    base, decay = rows[BASE.name], rows[TUNED_DECAY.name]
    lines = [["arm", "accuracy", "against the base", "against tuned weight decay", "time", "passes", "chosen"]]
    for row in rows.values():
        leads = ["" if row is other else _points(row.lead(other)) for other in (base, decay)]
        numbers = [f"{row.cost(base):.2f}", f"{row.passes:.2f}"]
        lines.append([row.arm.name, row.accuracy, *leads, *numbers, row.chosen])
    task = base.task
    samples = [len(part[-1]) for part in task.parts()]
    words = (
        f"{task.optimizer}, batches of {task.batch_size}, {task.epochs} epochs;"
        f" {samples[0]} samples for training, {samples[1]} for validation, {samples[2]} for the test."
    )
    return f"### {task.title}\n\n{words}\n\n{table(lines)}"


def _sharpness(results: Results, tasks: dict[str, Rows]) -> str:
    lines = [["task", "arm", "loss", "largest eigenvalue", *(f"rise at {radius}" for radius in RADII)]]
    for name, rows in tasks.items():
        for arm in rows:
            found = [row for row in results.sharpness if (row["task"], row["arm"]) == (name, arm)]
            if found:
                keys = ("loss", "eigenvalue", *(f"rise {radius}" for radius in RADII))
                means = [statistics.mean(float(row[key]) for row in found) for key in keys]
                lines.append([f"`{name}`", arm, *(f"{mean:.3g}" for mean in means)])
    return table(lines)


def draw(tasks: dict[str, Rows]) -> Figure:
    """One panel for each task: points against the base over the time of a training."""
    figure = Figure(figsize=(12, 7.6), layout="constrained")
    panels = list(figure.subplots(2, math.ceil(len(tasks) / 2), sharex=True, squeeze=False).flat)
    for panel, rows in zip(panels, tasks.values(), strict=False):
        _draw_panel(panel, rows)
    for panel in panels[len(tasks) :]:
        panel.axis("off")
    handles = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    figure.supxlabel("processor time of a training / base", fontsize=11)
    figure.supylabel("test accuracy - base, points (± standard error)", fontsize=11)
    return figure


def _draw_panel(axes: Axes, rows: Rows) -> None:
    base = rows[BASE.name]
    axes.axhline(0, color="#999999", lw=0.8)
    for name, row in rows.items():
        color, marker = STYLES[name]
        mean, error = row.lead(base)
        face = color if row.arm not in (BASE, LONGER, TUNED_DECAY) else "white"
        axes.errorbar(
            row.cost(base), mean, error, color=color, marker=marker, mfc=face, ms=8, capsize=2, lw=1, ls="", label=name
        )
    axes.set_title(base.task.title, fontsize=8)
    axes.grid(alpha=0.25)
