"""``python -m benchmarks``: runs all benchmarks and writes their pages under docs/benchmarks/."""

from __future__ import annotations

import argparse
import logging
import warnings

import torch

from benchmarks import (
    batch_limit,
    batch_report,
    batch_search,
    ground_truth,
    lr_regret,
    lr_scaling,
    report,
    sam_cost,
    scaling_report,
    step_cost,
)
from benchmarks.tasks import TASKS

CHECKED = next(task for task in TASKS if task.name == "mnist-mlp-adam")


def main() -> None:
    """Parses the command line and runs what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--recompute", action="store_true", help="train the ground truth anew (about half an hour)")
    known = ("regret", "step_cost", "sam_cost", "batch_size", "batch_wall", "lr_scaling")
    parser.add_argument("--only", choices=known, help="run one benchmark")
    options = parser.parse_args()

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # small loaders, few workers: no news to a benchmark
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    if options.recompute:
        ground_truth.recompute()
    if options.only in (None, "step_cost"):
        report.write_step_cost(step_cost.run_all())
    if options.only in (None, "sam_cost"):
        report.write_sam_cost(sam_cost.run_all())
    if options.only in (None, "regret"):
        runs = lr_regret.run_all()
        report.FOLDER.mkdir(parents=True, exist_ok=True)
        lr_regret.save(runs, report.FOLDER / "lr_regret.json")
        report.write_regret(runs, ground_truth.check(CHECKED, "one_cycle", 0.01))
    if options.only in (None, "batch_size"):
        searches = [*batch_search.run_injected(), *batch_search.run_injected((100, 777), accumulate=8)]
        batch_report.write(searches, batch_search.run_wall(), batch_limit.run_all())
    if options.only == "batch_wall":  # the rest counts, and may run on a busy machine
        searches, _, limits = batch_report.load(batch_report.PATH)
        batch_report.write(searches, batch_search.run_wall(), limits)
    if options.only in (None, "lr_scaling"):
        trainings = lr_scaling.run_all()
        lr_scaling.save(trainings, report.FOLDER / "lr_scaling.json")
        scaling_report.write(trainings)


if __name__ == "__main__":
    main()
