"""What a larger batch costs, at equal epochs: BatchSizeScaler and LRFinder, against LRFinder at the task's own size.

``python -m benchmarks.batch_size_price`` trains what ``docs/benchmarks/batch_size_price.json`` lacks and adds it.
``python -m benchmarks --only batch_size`` puts the table on the page. The two ways of a task run in turn, so that only
the ratio of their times counts.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.lr_tasks.held_out import tasks as held_out
from benchmarks.lr_tasks.sealed import tasks as sealed
from benchmarks.lr_tasks.shaping import tasks as shaping
from benchmarks.lr_tasks.task import LRTask, score
from benchmarks.pages import FOLDER, table
from lightning_hp import BatchSizeScaler, LRFinder

#: Tasks with more steps than every training keeps, with an accuracy or an explained variance.
NAMES = (
    "pairs36-mlp-momentum",
    "table35-mlp-momentum",
    "friedman-mlp-adam-batch8",
    "digits-mlp-sgd-batch2",
    "letters-lstm-adam-clipped",
    "noisy-100-classes-mlp-momentum-constant",
    "counts-poisson-momentum-batch-4",
    "wide-and-deep-adam-smoothing",
    "diabetes-mlp-huber-momentum",
)
SEEDS = (0, 1, 2)
WAYS = ("own", "found")
PATH = FOLDER / "batch_size_price.json"


class _Clock(pl.Callback):
    """Times the training without the searches before it."""

    def on_train_start(self, *_: Any) -> None:
        self.start = time.perf_counter()

    def on_train_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.start


def train(task: LRTask, way: str, seed: int) -> dict[str, Any]:
    """One training from the task's default rate."""
    pl.seed_everything(seed, verbose=False)
    module, loader, clock = task.module(task.default_lr), task.loader(), _Clock()
    finders = [BatchSizeScaler(), LRFinder()] if way == "found" else [LRFinder()]
    trainer = task.trainer(*finders, clock)
    started = time.perf_counter()
    trainer.fit(module, loader)
    loaders: Any = trainer.train_dataloader
    return {
        "task": task.name,
        "seed": seed,
        "way": way,
        "score": round(score(task, module), 2),
        "batch_size": loaders.batch_size,
        "lr": float(f"{float(module.lr):.4g}"),  # type: ignore[arg-type]
        "steps": trainer.global_step,
        "training_seconds": round(clock.seconds, 3),
        "search_seconds": round(time.perf_counter() - started - clock.seconds, 3),
        "trials": len(finders[0].result.trials) if way == "found" else 0,  # type: ignore[union-attr]
    }


def load() -> list[dict[str, Any]]:
    """What was measured so far."""
    return json.loads(PATH.read_text()) if PATH.exists() else []


def section(rows: Sequence[dict[str, Any]]) -> str:
    """The table of all tasks that were measured, and a sentence on their means, in Markdown."""
    lines = [["task", "own size (steps)", "found", "steps", "points at own", "difference", "times as fast"]]
    differences, ratios = [], []
    for name in NAMES:
        own, found = ([row for row in rows if (row["task"], row["way"]) == (name, way)] for way in WAYS)
        if len(own) != len(SEEDS) or len(found) != len(SEEDS):
            continue
        points = [new["score"] - old["score"] for old, new in zip(own, found, strict=True)]
        ratio = median(old["training_seconds"] / new["training_seconds"] for old, new in zip(own, found, strict=True))
        differences.append(fmean(points))
        ratios.append(ratio)
        sizes = [row["batch_size"] for row in found]
        lines.append(
            [
                name,
                f"{own[0]['batch_size']} ({own[0]['steps']})",
                ", ".join(map(str, sizes)) if len(set(sizes)) > 1 else str(sizes[0]),
                f"{median(row['steps'] for row in found):.0f}",
                f"{fmean(row['score'] for row in own):.1f}",
                f"{fmean(points):+.1f} ± {stdev(points) / len(points) ** 0.5:.1f}",
                f"{ratio:.1f}",
            ]
        )
    summary = (
        f"Mean over the tasks: {fmean(differences):+.1f} points; median: {median(differences):+.1f} points, and"
        f" {median(ratios):.1f} times as fast."
    )
    return f"{table(lines)}\n\n{summary}"


def main() -> None:
    """Trains what is missing."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    tasks = {task.name: task for task in (*shaping.TASKS, *held_out.TASKS, *sealed.TASKS)}
    rows = load()
    for name in NAMES:
        for seed in SEEDS:
            for way in WAYS:
                if any((row["task"], row["seed"], row["way"]) == (name, seed, way) for row in rows):
                    continue
                rows.append(train(tasks[name], way, seed))
                print(rows[-1], flush=True)
                PATH.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


if __name__ == "__main__":
    main()
