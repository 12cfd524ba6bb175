"""``python -m benchmarks``: runs the benchmarks and writes their pages to docs/benchmarks/."""

from __future__ import annotations

import argparse
import json
import logging
import warnings

import torch

from benchmarks import (
    accelerator,
    accelerator_report,
    batch_size_memory_limit,
    batch_size_report,
    batch_size_search,
    batch_size_watchdog,
    cost_reports,
    ground_truth,
    landscapes,
    landscapes_report,
    lr_regret,
    lr_regret_report,
    lr_scaling,
    lr_scaling_report,
    noise_scale,
    noise_scale_report,
    sam_cost,
    step_cost,
)
from benchmarks.sam_quality import report as sam_quality_report
from benchmarks.sam_quality import run as sam_quality
from benchmarks.sam_quality import sharpness as sam_quality_sharpness
from benchmarks.tasks import TASKS

#: The task on which the torch loop of the ground truth is compared with the Trainer.
CHECKED = next(task for task in TASKS if task.name == "mnist-mlp-adam")


def main() -> None:
    """Parses the command line and runs the benchmarks that it names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--recompute", action="store_true", help="train the ground truth again (about half an hour)")
    costs = ("step_cost", "sam_cost", "landscapes")
    sizes = ("batch_size", "batch_wall", "batch_watchdog", "noise_scale")
    known = ("regret", *costs, "sam_quality", *sizes, "lr_scaling", "accelerator")
    parser.add_argument("--only", choices=known, help="run one benchmark")
    options = parser.parse_args()

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # advice about small loaders and few workers, which are intended
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    if options.recompute:
        ground_truth.recompute()
    if options.only in (None, "step_cost"):
        cost_reports.write_step_cost(step_cost.run_all())
    if options.only in (None, "sam_cost"):
        cost_reports.write_sam_cost(sam_cost.run_all())
    if options.only in (None, "regret"):
        runs = lr_regret.run_all()
        lr_regret_report.FOLDER.mkdir(parents=True, exist_ok=True)
        lr_regret.save(runs, lr_regret_report.FOLDER / "lr_regret.json")
        lr_regret_report.write_regret(runs, ground_truth.check(CHECKED, "one_cycle", 0.01))
    if options.only in (None, "batch_size"):
        searches = [*batch_size_search.run_injected(), *batch_size_search.run_injected((100, 777), accumulate=8)]
        batch_size_report.write(searches, batch_size_search.run_wall(), batch_size_memory_limit.run_all())
    if options.only == "batch_wall":  # the other parts count steps and may run on a busy machine
        searches, _, limits = batch_size_report.load(batch_size_report.PATH)
        batch_size_report.write(searches, batch_size_search.run_wall(), limits)
    if options.only in (None, "batch_watchdog"):
        batch_size_watchdog.write(batch_size_watchdog.run_all())
    if options.only in (None, "landscapes"):
        landscapes_report.write(landscapes.run_all())
    if options.only in (None, "lr_scaling"):
        trainings = lr_scaling.run_all()
        lr_scaling.save(trainings, lr_scaling_report.FOLDER / "lr_scaling.json")
        lr_scaling_report.write(trainings)
    if options.only in (None, "noise_scale"):
        noise_scale_report.write(noise_scale.run_all())
    if options.only == "accelerator" or (options.only is None and torch.cuda.is_available()):
        if not torch.cuda.is_available():
            parser.error("expected a CUDA device for --only accelerator, but torch sees none; leave the option out.")
        accelerator_report.PATH.write_text(json.dumps(accelerator.run(), indent=1) + "\n")
        accelerator_report.write()
    if options.only in (None, "sam_quality"):  # continues what is in its file
        results = sam_quality.run_all()
        sam_quality_sharpness.measure_all(results)
        sam_quality_report.write(results)


if __name__ == "__main__":
    main()
