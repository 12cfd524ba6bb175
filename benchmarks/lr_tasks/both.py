"""BatchSizeScaler and LRFinder together against LRFinder at batch 32, at equal epochs: points and seconds.

``python -m benchmarks.lr_tasks.both`` writes ``both_searches.json``; run it on a quiet machine.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from benchmarks.lr_tasks.held_out.tasks import TASKS
from benchmarks.lr_tasks.regret import SEEDS
from benchmarks.lr_tasks.task import LRTask, score
from lightning_hp import BatchSizeScaler, LRFinder

NAMES = (
    "noisy-100-classes-mlp-momentum-constant",
    "detection-cnn-adam-multistep",
    "long-tail-focal-adam-exponential",
    "table-transformer-adamw-constant",
)
PATH = Path(__file__).with_name("both_searches.json")


def with_batches_of(task: LRTask, batch_size: int) -> LRTask:
    """The task with a loader of another batch size."""
    return replace(task, loader=lambda: DataLoader(task.loader().dataset, batch_size, shuffle=True))


def train(task: LRTask, seed: int, *finders: pl.Callback) -> dict[str, Any]:
    """One training with callbacks in front, from the module's default rate."""
    pl.seed_everything(seed, verbose=False)
    module, trainer, loader = task.module(task.default_lr), task.trainer(*finders), task.loader()
    start = time.perf_counter()
    trainer.fit(module, loader)
    seconds = time.perf_counter() - start
    return {
        "score": round(score(task, module), 2),
        "seconds": round(seconds, 2),
        "batch_size": trainer.train_dataloader.batch_size,
        "lr": float(module.lr),
        "steps": trainer.global_step,
    }


def main() -> None:
    """Trains both ways on all tasks and seeds."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    rows = []
    for task in (with_batches_of(task, 32) for task in TASKS if task.name in NAMES):
        for seed in SEEDS:
            for way, finders in (("batch 32", [LRFinder()]), ("both", [BatchSizeScaler(), LRFinder()])):
                rows.append({"task": task.name, "seed": seed, "way": way, **train(task, seed, *finders)})
                print(rows[-1], flush=True)
    PATH.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


if __name__ == "__main__":
    main()
