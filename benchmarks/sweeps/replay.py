"""`sweep` on scores that are known: an executor that looks trainings up instead of making them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from benchmarks.sweeps.modules import builder
from benchmarks.sweeps.tables import Table
from benchmarks.sweeps.task import SEARCH_SEEDS, Settings
from lightning_hp import sweep
from lightning_hp.sweeping.outcome import Outcome
from lightning_hp.sweeping.training import Job


class Made(NamedTuple):
    """A training that a strategy asked for; ``cost`` is 1, or less if it was shorter."""

    settings: Settings
    seed: int
    cost: float
    score: float


class EnoughError(Exception):
    """The strategy has used up its trainings."""


class Replay:
    """An executor for `sweep`.

    Args:
        table: The scores; settings that are not in it are trained.
        budget: Trainings after which the sweep ends.

    Attributes:
        made: The trainings in the order in which they were asked for.

    """

    def __init__(self, table: Table, budget: float) -> None:
        self._table, self._budget = table, budget
        self.made: list[Made] = []

    def submit(self, function: Callable[..., Any], job: Job) -> Future[Outcome]:
        """Looks up a training."""
        if sum(made.cost for made in self.made) >= self._budget:
            raise EnoughError
        task = self._table.task
        epochs = job.trainer["max_epochs"]
        score = self._table.get(job.settings, job.seed, epochs).validation[-1]
        self.made.append(Made(job.settings, job.seed, epochs / task.epochs, score))
        future: Future[Outcome] = Future()
        future.set_result(Outcome("complete", score=score))
        return future


def replay(
    table: Table, space: Mapping[Any, Sequence[Any]], budget: float, start: Settings, **options: Any
) -> list[Made]:
    """The trainings of a `sweep` with some options, until the budget is spent."""
    executor = Replay(table, budget)
    names = [name for key in space for name in (key if isinstance(key, tuple) else (key,))]
    with contextlib.suppress(EnoughError):
        sweep(
            builder(table.task),
            space,
            monitor="val_accuracy",
            mode="max",
            trainer={"max_epochs": table.task.epochs},
            seeds=SEARCH_SEEDS,
            start={name: start[name] for name in names},
            executor=executor,
            logdir=None,
            enable_progress_bar=False,
            **options,
        )
    return executor.made


class Step(NamedTuple):
    """After ``cost`` trainings a strategy would choose settings with this regret, in points of test accuracy."""

    cost: float
    regret: float
    settings: Settings


def steps(table: Table, made: Sequence[Made]) -> list[Step]:
    """What would be chosen in the course of a search: the best mean score of those settings that have all seeds."""
    scores: dict[str, dict[int, float]] = {}
    found: list[Step] = []
    cost, best = 0.0, float("-inf")
    for one in made:
        cost += one.cost
        if one.cost < 1:
            continue
        by_seed = scores.setdefault(str(sorted(one.settings.items())), {})
        by_seed[one.seed] = one.score
        mean = sum(by_seed.values()) / len(by_seed)
        if len(by_seed) == len(SEARCH_SEEDS) and mean > best:
            best = mean
            found.append(Step(round(cost, 2), round(table.best[0] - table.truth(one.settings), 3), one.settings))
    return found
