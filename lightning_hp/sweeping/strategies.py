"""Which settings a sweep trains next. A strategy is a generator: it yields rounds and looks at the scores in between.

plan = one_at_a_time(space)
round = next(plan)
while the plan goes on:
    train every setting of the round with every seed
    round = plan.send(scores)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from lightning_hp.functional.sweep.labels import key_of
from lightning_hp.sweeping.space import Settings, Space, Subject

#: The mean score of settings, higher is better; ``None`` if a training failed or was not made.
Scores: TypeAlias = "Callable[[Settings], float | None]"
Plan: TypeAlias = "Generator[Round, Scores, Any]"


@dataclass(frozen=True)
class Round:
    """Settings to train before the strategy goes on.

    Attributes:
        stage: What is swept: the label of a subject, or the name of a strategy.
        settings: The settings.
        is_probe: Whether short trainings with the first seed are enough.
        may_stop_early: Whether a setting may be left after some of its seeds, when it is clearly not the best.

    """

    stage: str
    settings: Sequence[Settings]
    is_probe: bool = False
    may_stop_early: bool = False


def one_at_a_time(space: Space, subjects: Sequence[Subject]) -> Plan:
    """Sweeps one subject after the other; each keeps its best value while the next ones are swept."""
    best = dict(space.start)
    for subject in subjects:
        candidates = [{**best, **value} for value in subject.settings()]
        scores = yield Round(subject.label, candidates)
        best = best_of(candidates, scores) or best


def grid(space: Space) -> Plan:
    """Trains all combinations."""
    yield Round("grid", list(space.grid()))


def measured_order(space: Space) -> Generator[Round, Scores, list[Subject]]:
    """Returns the subjects, the one with the largest impact first.

    Each subject is tried at the first, the middle and the last of its values, all others at their start. A setting that
    fails counts as the worst score of all.
    """
    tried = {}
    for subject in space.subjects:
        last = len(subject.values) - 1
        tried[subject.label] = [{**space.start, **subject.settings()[index]} for index in sorted({0, last // 2, last})]
    unique = {key_of(settings): settings for group in tried.values() for settings in [space.start, *group]}
    scores = yield Round("order", list(unique.values()), is_probe=True)
    known = [score for settings in unique.values() if (score := scores(settings)) is not None]
    worst = min(known, default=0.0)

    def impact(subject: Subject) -> float:
        found = [scores(settings) for settings in tried[subject.label]]
        numbers = [worst if score is None else score for score in found]
        return max(numbers) - min(numbers)

    return sorted(space.subjects, key=impact, reverse=True)


def best_of(candidates: Sequence[Settings], scores: Scores) -> Settings | None:
    """The first of those with the best score; ``None`` if none has a score."""
    finished = [(score, settings) for settings in candidates if (score := scores(settings)) is not None]
    return max(finished, key=lambda pair: pair[0])[1] if finished else None
