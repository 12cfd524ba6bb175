"""Writes the pages ``step_cost.md`` and ``sam_cost.md``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import TYPE_CHECKING

from benchmarks.pages import FOLDER, PACKAGES, table, versions

if TYPE_CHECKING:
    from benchmarks.sam_cost import Cost as SamCost
    from benchmarks.step_cost import Cost

STEP_COST_PAGE = """\
# Cost of one step of a learning-rate finder

The time from the start of one forward pass to the start of the next, in processor time on one CPU thread.
`Trainer.fit` runs without logger, progress bar, checkpoints and validation, which is the cheapest `fit`. All programs
run interleaved, a few steps at a time. Each such turn is divided by the turn of `fit` next to it; the table gives the
median of these ratios with its 95% interval. *The rest* is the time of a whole call outside its steps: setup, saving
and restoring the state, teardown. torch-lr-finder works without a Trainer and calls none of its hooks.

{table}

Measured on {date} with {versions}.
"""

SAM_COST_PAGE = """\
# Cost of one step of SAM

The processor time of one step on one CPU thread, with SGD with momentum. Every form of SAM needs at least two forward
and backward passes and one optimizer step, which is the *floor*. *Beyond the floor* is the additional time: the median
of ratios of interleaved measurements, with its 95% interval. Loops in torch are compared with a floor in torch; the
callback is compared with a `fit` whose module runs forward and backward twice. Steps in which SAM is not due are
compared with a `fit` without SAM.

{table}

*Peak memory* is the peak of a few steps in a process of its own, minus the peak of a process that trains hardly any
weights, in units of the weights. Weights, gradients and momentum are three units, minus what the other process needs
anyway. With weights of 25 MB, the time depends on the memory that the allocator of the system gives to a process. Each
figure is therefore the median over a dozen processes with different memory histories.

Measured on {date} with {versions}.
"""


def write_step_cost(costs: Iterable[Cost]) -> None:
    """Writes ``step_cost.md``."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = [["model", "driver", "ms a step", "ratio to fit", "the rest, ms"]]
    for cost in costs:
        ratio = f"{cost.ratio:.3f} ({cost.ratio_low:.3f} to {cost.ratio_high:.3f})"
        if cost.driver == "Trainer.fit":
            ratio = "1"
        rows.append([cost.job, cost.driver, f"{cost.step_ms:.3f}", ratio, f"{cost.rest_ms:.0f}"])
    page = STEP_COST_PAGE.format(table=table(rows), date=date.today().isoformat(), versions=versions())
    (FOLDER / "step_cost.md").write_text(page)


def write_sam_cost(costs: Iterable[SamCost]) -> None:
    """Writes ``sam_cost.md``."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = [["model", "driver", "ms a step", "beyond the floor", "peak memory"]]
    for cost in costs:
        over = "a floor" if cost.is_floor else f"{cost.over:+.1%} ({cost.over_low:+.1%} to {cost.over_high:+.1%})"
        peak = "" if cost.peak is None else f"{cost.peak:.2f}"
        rows.append([cost.job, cost.driver, f"{cost.step_ms:.1f}", over, peak])
    known = versions((*PACKAGES, "pytorch_optimizer"))
    page = SAM_COST_PAGE.format(table=table(rows), date=date.today().isoformat(), versions=known)
    (FOLDER / "sam_cost.md").write_text(page)
