"""The tables of the page on sweeps."""

from __future__ import annotations

import json
import statistics

import numpy as np

from benchmarks.pages import table
from benchmarks.sweeps import advice, overhead
from benchmarks.sweeps.strategies import quarter
from benchmarks.sweeps.summary import SHOWN, difference, margin, regrets, repetitions, with_margin
from benchmarks.sweeps.tables import grid, table_of
from benchmarks.sweeps.task import SEARCH_SEEDS, SweepTask
from benchmarks.sweeps.tasks import TASKS

#: The tasks on which the sampler of `refine` was chosen.
SHAPED = ("digits-mlp", "noisy-table")


def tasks() -> str:
    """What is trained."""
    rows = [
        ["task", "optimizer", "subjects in the given order", "settings", "trainings", "best of the grid", "seconds"]
    ]
    for task in TASKS:
        known = table_of(task)
        subjects = ", ".join(f"{name} ({len(values)})" for name, values in task.space.items())
        count = len(grid(task))
        counted = [str(count), str(count * len(SEARCH_SEEDS))]
        rows.append([task.name, task.optimizer, subjects, *counted, f"{known.best[0]:.1f}", f"{known.seconds:.2f}"])
    return table(rows)


def curves(task: SweepTask) -> str:
    """Regret against the number of trainings."""
    last = quarter(table_of(task))
    counts = [*range(10, last, 10), last]
    rows = [["trainings", *map(str, counts), "worst of ten", "from the user's start"]]
    for strategy in SHOWN:
        cells = []
        for count in counts:
            found = regrets(task.name, strategy, count)
            cells.append(f"{np.mean(found):.1f}" if found else "-")
        found = regrets(task.name, strategy, last)
        cells[-1] = with_margin(found)
        first = f"{found[0]:.2f}" if strategy in ("one at a time", "measured order", "hybrid") else ""
        rows.append([strategy, *cells, f"{max(found):.2f}" if len(found) > 1 else "", first])
    whole = repetitions(task.name, "grid")[0]
    used = [row["trainings"] for row in repetitions(task.name, "one at a time")]
    measured = [row["trainings"] for row in repetitions(task.name, "measured order")]
    notes = (
        f"The whole grid, {whole['trainings']:.0f} trainings: {whole['steps'][-1][1]:.2f}. One at a time ends after"
        f" {np.mean(used):.0f} trainings, with the measured order after {np.mean(measured):.0f}."
    )
    return f"### {task.name}\n\n{table(rows)}\n\n{notes}"


def compared() -> str:
    """The hybrid against the others, at a quarter of the grid."""
    others = ("one at a time", "TPE", "random", "ASHA")
    rows = [["task", "hybrid", *(f"hybrid - {other}" for other in others), "hybrid - whole grid"]]
    for task in TASKS:
        last = quarter(table_of(task))
        hybrid = regrets(task.name, "hybrid", last)
        cells = [task.name, with_margin(hybrid)]
        for other in others:
            mean, half = difference(hybrid, regrets(task.name, other, last))
            cells.append(f"{mean:+.2f} ± {half:.2f}")
        cells.append(f"{np.mean(hybrid) - repetitions(task.name, 'grid')[0]['steps'][-1][1]:+.2f}")
        rows.append(cells)
    return table(rows)


def verdict() -> str:
    """Where the hybrid is worse than TPE, at any number of trainings of the tables."""
    lines = []
    for task in TASKS:
        last = quarter(table_of(task))
        worse = []
        for count in [*range(10, last, 10), last]:
            pair = regrets(task.name, "hybrid", count), regrets(task.name, "TPE", count)
            if all(pair):
                mean, half = difference(*pair)
                worse += [f"{count} ({mean:+.2f} ± {half:.2f})"] if mean > 0 else []
        text = "after " + ", ".join(worse) + " trainings" if worse else "nowhere"
        lines.append(f"- {task.name}: {text}.")
    return "\n".join(lines)


def samplers() -> str:
    """The candidates for the sampler of `refine`."""
    rows = [["task", "TPE", "TPE, the first five", "GP, five repetitions", "GP - TPE, paired"]]
    for task in TASKS:
        last = quarter(table_of(task))
        tpe, gp = (regrets(task.name, name, last) for name in ("hybrid, TPE", "hybrid, GP"))
        pairs = [two - one for one, two in zip(tpe, gp, strict=False)]
        rows.append([f"{task.name}{' *' if task.name in SHAPED else ''}"])
        rows[-1] += [with_margin(values) if values else "-" for values in (tpe, tpe[: len(gp)], gp)]
        rows[-1] += [f"{np.mean(pairs):+.2f} ± {margin(pairs):.2f}" if pairs else "-"]
    return table(rows)


def choices(ways: tuple[str, ...]) -> str:
    """Regret and trainings of ways to go through the subjects."""
    found = json.loads(advice.PATH.read_text())["choices"]
    rows = [["task", *(cell for way in ways for cell in (way, "trainings"))]]
    for task in TASKS:
        cells = [task.name]
        for way in ways:
            chosen = [row for row in found if (row["task"], row["way"]) == (task.name, way)]
            cells += [with_margin([row["regret"] for row in chosen])]
            cells += [f"{np.mean([row['trainings'] for row in chosen]):.0f}"]
        rows.append(cells)
    return table(rows)


def impacts() -> str:
    """The order by impact on each task."""
    found = json.loads(advice.PATH.read_text())["choices"]
    rows = [["task", "points between the best and the worst value, means over all else"]]
    for task in TASKS:
        order = next(row["order"] for row in found if row["task"] == task.name and "order" in row)
        rows.append([task.name, ", ".join(f"{name} {points}" for name, points in order.items())])
    return table(rows)


def retuned() -> str:
    """Learning rates found once and anew."""
    found = json.loads(advice.PATH.read_text())["retuned"]
    titles = {
        "found anew": "LRFinder in each setting (`retune`)",
        "found once": "LRFinder at the user's start, that rate for all",
        "grid once": "best of 5 rates at the user's start, for all",
        "grid anew": "best of 5 rates in each setting",
    }
    by_way = {way: [row for row in found if row["way"] == way] for way in titles}
    rows = [["learning rate", "mean over the settings", "worst setting", "best setting", "rates"]]
    for way, title in titles.items():
        scores, rates = [row["score"] for row in by_way[way]], [row["lr"] for row in by_way[way]]
        span = f"{min(rates):.2g} to {max(rates):.2g}" if min(rates) < max(rates) else f"{rates[0]:.2g}"
        rows.append([title, f"{np.mean(scores):.1f}", f"{min(scores):.1f}", f"{max(scores):.1f}", span])
    pairs = [new["score"] - once["score"] for new, once in zip(by_way["found anew"], by_way["found once"], strict=True)]
    text = f"Found anew minus found once, paired by setting: {np.mean(pairs):+.2f} ± {margin(pairs):.2f} points"
    return f"{table(rows)}\n\n{text}, {min(pairs):+.1f} to {max(pairs):+.1f}."


def costs() -> str:
    """Milliseconds per training and per call, and what is beyond the bare loop."""
    found = json.loads(overhead.PATH.read_text())["seconds"]
    bare_loop = found["bare loop"]
    rows = [["", "a training", "beyond the bare loop", "wall time beyond it", "once per call", "its wall time"]]
    for way, measured in found.items():
        cells = [way, f"{1000 * statistics.median(row[0] for row in measured):.0f}"]
        for column in range(4):
            pairs = [1000 * (row[column] - bare[column]) for row, bare in zip(measured, bare_loop, strict=True)]
            medians = np.median(np.random.RandomState(0).choice(pairs, (2000, len(pairs))), axis=1)
            low, high = np.quantile(medians, [0.025, 0.975])
            text = f"{round(statistics.median(pairs))} ({round(low)} to {round(high)})"
            cells.append("" if way == "bare loop" else text)
        rows.append(cells)
    return table(rows)


def memory() -> str:
    """Growth per training."""
    found = json.loads(overhead.PATH.read_text())["memory"]
    return "; ".join(f"{way} {value:.2f} MB" for way, value in found.items())
