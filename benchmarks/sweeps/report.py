"""Writes ``docs/benchmarks/sweep.md`` and its figure from the JSON files: ``python -m benchmarks.sweeps.report``."""

from __future__ import annotations

import json

from benchmarks.pages import FOLDER, versions
from benchmarks.sweeps import advice, figure, overhead
from benchmarks.sweeps import report_tables as tables
from benchmarks.sweeps.tables import grid
from benchmarks.sweeps.tasks import TASKS

PATH = FOLDER / "sweep.md"
PACKAGES = ("torch", "pytorch-lightning", "optuna", "mushin-py", "scikit-learn", "numpy")

HEAD = """# Sweeps

How good are the settings that a sweep chooses, after how many trainings? On four tasks all combinations of the values
were trained, with two seeds each: a strategy sees these scores, on a validation part. A setting that it chooses has the
best mean over the two seeds. *Regret* is measured on a test part, with three other seeds: points of accuracy below the
best setting of the grid. Settings of the grid outside its better third have the test accuracy of the first two seeds.
The best of the grid is the highest of many noisy means, so that a regret of a few tenths is nothing.

Each strategy runs ten times. One at a time, and what builds on it, start from the user's values the first time and from
random ones of the grid the other nine times; samplers have ten seeds. The strategies are those of `sweep`, whose
executor looks the scores up. Only settings between the values of the lists, which `refine` asks for, are trained: by
the same loop. ASHA is plain Optuna with TPE and `SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)`, and a
shortened training counts by its epochs; so do the short trainings of the measured order.

`python -m benchmarks.sweeps.tables` trains the grids, `... .strategies` and `... .advice` run the searches,
`... .overhead` measures time and memory, and `... .report` writes this page."""

FIGURE = "![Regret against the number of trainings on four tasks](../images/sweep_regret.png)"

TRAINER = """Seconds are processor seconds of one training. The loop of the tables and the Trainer, on {trainings}
trainings of {task}: the Trainer scores {mean:+.2f} points higher (standard error {error:.2f})."""

CURVES = """## Regret against the number of trainings

Means of ten repetitions; after a quarter of the grid with the half width of the 95 % interval. "-": some repetition has
not trained a setting with both seeds."""

COMPARED = """## Hybrid against the others

`sweep(..., refine=n)`: one at a time, then a search between the neighbours of the best values. After a quarter of the
trainings of the grid; differences of mean regret with 95 % intervals, negative where the hybrid is better. The hybrid
may choose values between those of the lists; the others may not."""

VERDICT = "Where the mean regret of the hybrid is above that of TPE at the same number of trainings:"

SAMPLERS = """## Sampler of `refine`

Regret after a quarter of the grid. The sampler was chosen on the tasks with a star, before the hybrid was run on the
others. That categories are searched too was decided after a first run on mnist-cnn, where the hybrid stayed with the
worse activation. So news-words alone had no part in either choice.

GP has five repetitions, and a proposal of it costs processor time that one of TPE does not. On noisy-table both were
compared before categories were searched: GP 0.00 ± 0.33, TPE 0.18 ± 0.44 from the same five starts (0.11 ± 0.20 from
all ten); on news-words GP was not run. The differences are within the noise, so TPE stays."""

ORDER = """## Order of the subjects

One at a time, ten starts. Important first is the order by impact in the whole grid, known only afterwards."""

COUPLED = """## Learning rate and batch size

One at a time, ten starts, the other subjects after these two. *Separate*: the rate, then the batch size. *Scaled*: the
rate, then batch sizes, each with the rate by the scaling rule (linear for SGD, square root for AdamW), as coupled
values. *Pairs*: all pairs as one subject."""

RETUNED = """## A learning rate for each setting

All {settings} settings of {task} without the learning rate; test accuracy, three seeds."""

COST = """## Cost of a sweep beyond its trainings

Calls of ten trainings of one epoch of {task}, {rounds} times, all ways in turns. Milliseconds of processor time,
medians; differences are to the bare loop in the same round, with the 95 % interval of their median. Wall times are
those of a machine on which other programs ran. Once per call: what does not grow with the number of trainings."""

MEMORY = "Growth of resident memory per training, 60 trainings after the first ten: {}."

FINDINGS = """## What it says

- *Hybrid against TPE, at a quarter of the grid*: clearly better on news-words, not to be told apart on noisy-table. On
  digits-mlp and mnist-cnn **its mean regret is above that of TPE**, by 0.2 and 0.5 points, within the intervals; on
  digits-mlp ASHA is clearly better than it. On no task is its mean within 0.3 points of the best of the grid; the
  choice from the whole grid is so on one of four.
- *One at a time* is ahead of TPE after 20 trainings in all four means, and then ends. It depends on the start: from a
  poor one it can end in a pair of learning rate and batch size, or an activation, that no change of a single subject
  improves. The hybrid searches around that pair, which mends it only in part.
- *Coupling* helps most: if the learning rate follows the batch size by the scaling rule, the mean regret of one at a
  time falls on three of four tasks, from 0.6 to 0.2, from 1.7 to 0.2 and from 2.4 to 0.8 points, at the same number of
  trainings. All pairs as one subject are no better and cost 12 to 20 trainings more.
- *Order*: important first, given and important last do not differ beyond the noise. `order="measured"` costs up to two
  trainings, without a clear gain or loss.
- *A learning rate for each setting* protects the settings that the common rate does not suit: the worst has 91.8
  instead of 85.9. On average the gain over one rate found by LRFinder is within the noise; over the best of 5 rates at
  the user's start it is 5 points.
- *More trainings are not always better*: on news-words the choice from the whole grid loses 2.8 points, more than any
  strategy at a quarter of it. The validation part has 600 articles, and prefers settings that the test part does not.
- *Cost*: about 5 ms of processor time a training with the journal and 30 with SQLite, as plain Optuna has; and a third
  of a second per call, in which Python's garbage is collected once so that it need not be again. Memory is flat."""


def main() -> None:
    """Writes the page and the figure."""
    figure.draw()
    first = TASKS[0]
    trainer = json.loads(advice.PATH.read_text())["trainer"]
    settings = len(grid(first)) // len(first.space["lr"])
    parts = [HEAD, FIGURE, FINDINGS, "## Tasks", tables.tasks(), TRAINER.format(task=first.name, **trainer)]
    parts += [CURVES, *map(tables.curves, TASKS), COMPARED, tables.compared(), VERDICT, tables.verdict()]
    parts += [SAMPLERS, tables.samplers()]
    parts += [ORDER, tables.impacts(), tables.choices(("important first", "given order", "important last"))]
    parts += [COUPLED, tables.choices(("separate", "scaled", "pairs"))]
    parts += [RETUNED.format(settings=settings, task=first.name), tables.retuned()]
    parts += [COST.format(task=first.name, rounds=overhead.ROUNDS), tables.costs(), MEMORY.format(tables.memory())]
    parts += [f"Measured with {versions(PACKAGES)}."]
    PATH.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
