"""Writes the page ``landscapes.md``."""

from __future__ import annotations

from datetime import date

from benchmarks.landscapes import FLOOR, LANDSCAPER, SHIFTING, SIDE, Report
from benchmarks.pages import FOLDER, table, versions

PACKAGES = ("torch", "numpy", "scipy", "mlxtend", "loss-landscapes", "landscaper", "PyHessian")

PAGE = """\
# Cost and accuracy of loss landscapes

Small networks on MNIST (14x14 pixels), trained for three epochs: a CNN of two convolutions without and with BatchNorm,
and an MLP of 84 000 weights. All times are processor times on one CPU thread.

## Time of a point

{side} x {side} points in a plane of two filter-normalised directions, with the same weights, directions and samples in
all programs. The *floor* is as many forward passes and losses without moving the weights. The programs run in turns of
a few points; the ratio is the median of those of adjacent turns, with its 95% interval. What the programs do before the
first point and after the last one, a few milliseconds, is left out.

{time}

Every program has to write the weights at each point. That takes next to nothing beside the forward pass of a CNN, where
all are close to the floor. The MLP has many weights for a short forward pass, so there the writing shows.
`loss_surface` writes each point from an untouched copy of the weights, so that no rounding adds up and the weights are
restored exactly. loss-landscapes adds steps to the weights instead, which reads less memory and saves 7 to 12 % of the
floor for the MLP; it restores nothing, and works on copies of the model with its option `deepcopy_model`. What saves
more time is fewer points, see below.

The difference column is the largest relative difference to the values of `loss_surface` at the same points. Two
properties of the others were taken into account. loss-landscapes evaluates rows in alternating directions and shifts
every second one by a step, so its array is not a rectangular grid. landscaper adds random noise to the largest loss and
replaces losses that are not finite by the mean or the largest one.

## Accuracy of what saves time

A surface of 21 x 21 points that reaches one norm of each filter in each direction, the worst of three pairs of
directions. `coarse=True` evaluates 121 points instead of 441, which is 3.6 times faster. The last columns are the mean
relative error with the first 64 to 512 samples instead of 1000.

{accuracy}

## Hessian

The largest eigenvalue on 256 samples, with the default settings of `hessian_eigenvalues` and of PyHessian. *Exact* is
the value at a tolerance of 1e-6.

{hessian}

## Principal components

`pca_directions` of {num} checkpoints of {weights} weights took {seconds:.1f} s ({processor:.1f} s of processor time,
one thread). The first two components of that random walk explain {explained:.0%} of its variance, so such a share says
nothing about a training.

Measured on {date} with {versions}.
"""


def write(report: Report) -> None:
    """Writes ``landscapes.md``."""
    time = [["model", "samples", "program", "ms a point", "ratio to the floor", "largest difference"]]
    for cost in report.costs:
        ratio = "1" if cost.program == FLOOR else "{:.2f} ({:.2f} to {:.2f})".format(*cost.ratio)
        differences = report.differences[cost.model, cost.num_samples]
        difference = f"{differences[cost.program]:.0e}" if cost.program in (SHIFTING, LANDSCAPER) else ""
        time.append([cost.model, str(cost.num_samples), cost.program, f"{cost.ms:.2f}", ratio, difference])
    sizes = list(report.errors[0].by_samples)
    accuracy = [["model", "coarse, mean", "coarse, largest", *(f"{size} samples" for size in sizes)]]
    for one in report.errors:
        by_samples = [f"{one.by_samples[size]:.1%}" for size in sizes]
        accuracy.append([one.model, f"{one.coarse_mean:.2%}", f"{one.coarse_largest:.1%}", *by_samples])
    hessian = [["model", "exact", "ours", "PyHessian", "products", "ms", "time of PyHessian / ours"]]
    for value in report.eigenvalues:
        errors = [f"{found:.3f} ({found / value.exact - 1:+.1e})" for found in (value.ours, value.theirs)]
        ratio = "{:.2f} ({:.2f} to {:.2f})".format(*value.ratio)
        row = [value.model, f"{value.exact:.3f}", *errors, str(value.num_products), f"{value.ms:.0f}", ratio]
        hessian.append(row)
    FOLDER.mkdir(parents=True, exist_ok=True)
    page = PAGE.format(
        side=SIDE, time=table(time), accuracy=table(accuracy), hessian=table(hessian),
        num=report.components.num_checkpoints, weights=f"{report.components.num_weights:,}".replace(",", " "),
        seconds=report.components.seconds, processor=report.components.processor_seconds,
        explained=report.components.explained, date=date.today().isoformat(), versions=versions(PACKAGES),
    )  # fmt: skip
    (FOLDER / "landscapes.md").write_text(page)
