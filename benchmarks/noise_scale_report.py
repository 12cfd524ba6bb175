"""Writes the page ``noise_scale.md``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from datetime import date

from benchmarks.noise_scale import ACCUMULATE, BATCHES, DECAY, MICRO_BATCH, SEEDS, Critical, Results, Row, save
from benchmarks.pages import FOLDER, table, versions

PAGE = """\
# The gradient noise scale

## Against exact values

Trainings with SGD on real data, {steps} samples in an optimizer step ({accumulate} micro-batches of {micro}), {seeds}
seeds. The exact noise scale is computed from the gradient of each training sample, every fourth step, and averaged over
the steps with the weights of the callback (`decay={decay:g}`). It is compared every 25 steps. *Rehearsal*: 10 steps of
8 batches of 32 at the first weights, after one epoch and after three, in trainings with batch 32.

*Ratio*: the median of the estimate divided by the exact value, where the estimate is known. *Known*: how many of the
estimates are. *Covered*: how many of the 95 % intervals contain the exact value, also of those without an upper end.
Neighbouring estimates of one training share most of their steps, so these numbers are of few independent ones.

{estimates}

There are two exact values. Batches without replacement estimate |G|^2 of the distribution that the N samples were drawn
from; that of the samples themselves is larger by S / N. The last column is the median of the ratio to the noise scale
of the training set. The two differ where the noise scale is not small against N.

## As a critical batch size

The optimizer steps to a training loss, at the best learning rate of a grid with factor two for each batch size, mean of
two seeds. *Critical* is the B_c of the fit steps = minimum (1 + B_c / B), with the root mean square of the error of the
logarithm of the steps.

{critical}

{reading}

The best rates by batch size:

{rates}

## Cost of a step

The processor time of a micro-batch on one CPU thread, `accumulate_grad_batches=4`, relative to the same `fit` without
the callback, whose turns are next to it; with the 95 % interval of the median. *No step measured*: `every` is not due.
A ratio below 1 shows how far the noise of a busy machine reaches.

{costs}

`python -m benchmarks --only noise_scale` repeats the benchmark (about 15 minutes on two cores); all numbers are in
`noise_scale.json`. Measured on {date} with {versions}.
"""


def write(results: Results) -> None:
    """Writes the page and the numbers."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    save(results, FOLDER / "noise_scale.json")
    page = PAGE.format(
        steps=MICRO_BATCH * ACCUMULATE,
        accumulate=ACCUMULATE,
        micro=MICRO_BATCH,
        seeds=len(SEEDS),
        decay=DECAY,
        estimates=_estimates(results.rows),
        critical=_critical(results),
        reading=_reading(results),
        rates=_rates(results.critical),
        costs=_costs(results),
        date=date.today().isoformat(),
        versions=versions(("torch", "pytorch-lightning", "scikit-learn", "mlxtend", "numpy")),
    )
    (FOLDER / "noise_scale.md").write_text(page)


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.task for row in rows))


def _estimates(rows: Sequence[Row]) -> str:
    lines = [["task", "source", "exact, from first to last", "ratio", "known", "covered", "ratio, training set"]]
    for task in _names(rows):
        for source in ("accumulation", "rehearsal"):
            own = [row for row in rows if (row.task, row.source) == (task, source)]
            known = [(row.estimate, row) for row in own if row.estimate is not None]
            steps = sorted({row.step for row in own})
            ends = [statistics.median(row.exact for row in own if row.step == step) for step in (steps[0], steps[-1])]
            lines.append(
                [
                    task,
                    source,
                    f"{ends[0]:.0f} to {ends[1]:.0f}",
                    f"{statistics.median(value / row.exact for value, row in known):.2f}" if known else "-",
                    f"{len(known)} of {len(own)}",
                    f"{sum(row.covers for row in own)} of {len(own)}",
                    f"{statistics.median(value / row.exact_of_set for value, row in known):.2f}" if known else "-",
                ]
            )
    return table(lines)


def _ends(rows: Sequence[Row], task: str) -> tuple[float, float, float]:
    """The median estimate of the first and the last quarter of a training, and of all of it."""
    own = [row for row in rows if (row.task, row.source) == (task, "accumulation")]
    last = max(row.step for row in own)

    def middle(low: float, high: float) -> float:
        rows_there = [row for row in own if low * last <= row.step <= high * last]
        return statistics.median(math.inf if row.estimate is None else row.estimate for row in rows_there)

    return middle(0, 0.25), middle(0.75, 1), middle(0, 1)


def _critical(results: Results) -> str:
    lines = [
        ["task", *(f"B = {batch}" for batch in BATCHES), "critical", "rms", "noise scale: first quarter, last, all"]
    ]
    for one in results.critical:
        steps = [f"{one.steps[batch]:.0f}" if batch in one.steps else "-" for batch in BATCHES]
        ends = ", ".join(
            "not known" if math.isinf(value) else f"{value:.0f}" for value in _ends(results.rows, one.task)
        )
        lines.append([one.task, *steps, f"{one.critical:.0f}", f"{one.rms:.2f}", ends])
    return table(lines)


def _reading(results: Results) -> str:
    ratios = [_ends(results.rows, one.task)[2] / one.critical for one in results.critical]
    texts = ", ".join(f"{ratio:.1f}" for ratio in ratios)
    rises = []
    for one in results.critical:
        first = min(one.rates)
        below = max(batch for batch in one.rates if batch <= max(first, one.critical))
        rises.append(f"{one.rates[below] / one.rates[first]:g} times from B = {first} to {below}")
    return (
        f"Over the whole training the median estimate is {texts} times the measured critical batch size in these"
        " tasks.\n"
        f"Up to the critical batch size the best rate rises {', '.join(rises)}."
    )


def _rates(critical: Sequence[Critical]) -> str:
    lines = [["task", *(f"B = {batch}" for batch in BATCHES)]]
    lines += [[o.task, *(f"{o.rates[batch]:g}" if batch in o.rates else "-" for batch in BATCHES)] for o in critical]
    return table(lines)


def _costs(results: Results) -> str:
    lines = [["model", "driver", "ms a micro-batch", "ratio to fit"]]
    for cost in results.costs:
        ratio = "1" if cost.driver == "Trainer.fit" else f"{cost.ratio:.3f} ({cost.low:.3f} to {cost.high:.3f})"
        lines.append([cost.job, cost.driver, f"{cost.ms:.3f}", ratio])
    return table(lines)
