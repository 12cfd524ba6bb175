"""Settings that an Optuna sampler chooses: among the values of the lists, or in the ranges around the best of them.

The sampler works on a study of its own in memory, with one trial per setting and the mean over its seeds as the value.
The study on disk holds one trial per training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_hp.functional.checks import is_number
from lightning_hp.functional.sweep.labels import key_of
from lightning_hp.sweeping.axes import ListAxis, RangeAxis, range_axis
from lightning_hp.sweeping.optuna_messages import quiet_optuna
from lightning_hp.sweeping.space import Settings, Space, Subject
from lightning_hp.sweeping.strategies import Plan, Round, Scores, best_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler

#: Names of the stages.
SAMPLER, REFINE = "sampler", "refine"


def sampled(space: Space, asked: Sequence[Settings], sampler: BaseSampler, trials: int, batch: int) -> Plan:
    """Lets a sampler choose among the values of the lists.

    Args:
        space: The subjects.
        asked: Settings that it chose in an earlier call. They are completed, and count as trials.
        sampler: An Optuna sampler.
        trials: Number of settings; fewer if there are fewer.
        batch: Settings that are asked for at once.

    """
    axes = [ListAxis(subject) for subject in space.subjects]
    study = _new_study(sampler)
    if asked:
        scores = yield Round(SAMPLER, asked)
        for settings in asked:
            _add_known(study, axes, settings, scores(settings))
    yield from _ask(SAMPLER, study, axes, {}, min(trials, len(space)) - len(asked), batch)


def refine(
    space: Space,
    known: Sequence[Settings],
    asked: Sequence[Settings],
    scores: Scores,
    sampler: BaseSampler,
    trials: int,
    batch: int,
) -> Plan:
    """Searches the ranges between the neighbours of the best values, starting from all trainings that exist.

    A category that was worse may have been tried with numbers that suit the other one, so all categories stay.

    Args:
        space: The subjects. Those without numbers may take any of their values.
        known: The settings that were trained.
        asked: Those among them that an earlier call of this strategy chose. They are completed, and count as trials.
        scores: The scores.
        sampler: An Optuna sampler.
        trials: Number of further settings.
        batch: Settings that are asked for at once.

    """
    best = best_of([settings for settings in known if settings not in asked], scores)
    if best is None:
        return
    axes = [axis for subject in space.subjects if (axis := _refined_axis(subject, best)) is not None]
    if not any(isinstance(axis, RangeAxis) for axis in axes):
        return
    names = {name for axis in axes for name in axis.names}
    fixed = {name: value for name, value in best.items() if name not in names}
    if asked:
        scores = yield Round(REFINE, asked, may_stop_early=True)
    study = _new_study(sampler)
    for settings in known:
        if key_of({name: value for name, value in settings.items() if name not in names}) == key_of(fixed):
            _add_known(study, axes, settings, scores(settings))
    yield from _ask(REFINE, study, axes, fixed, trials - len(asked), batch, may_stop_early=True)


def _refined_axis(subject: Subject, best: Settings) -> ListAxis | RangeAxis | None:
    """The range around the best value, all values of a subject without numbers, or ``None`` to keep the best value."""
    axis = range_axis(subject, best)
    if axis is not None or len(subject.values) < 2 or any(is_number(entry) for row in subject.values for entry in row):
        return axis
    categories = ListAxis(subject)
    return None if categories.parameter(best) is None else categories


def refining_sampler() -> BaseSampler:
    """The sampler of :func:`refine` in a sweep."""
    import optuna

    return optuna.samplers.TPESampler(seed=0, multivariate=True)


def _ask(
    stage: str,
    study: Study,
    axes: Sequence[ListAxis | RangeAxis],
    fixed: Mapping[str, Any],
    trials: int,
    batch: int,
    may_stop_early: bool = False,
) -> Plan:
    """Asks for settings until there are ``trials`` different ones, or as many proposals were repeated."""
    from optuna.trial import TrialState

    distributions = {axis.name: axis.distribution() for axis in axes}
    every: list[Settings] = []
    seen: set[str] = set()
    repeats = 0
    while len(seen) < trials and repeats < trials:
        asked = [study.ask(distributions) for _ in range(min(batch, trials - len(seen)))]
        proposals = []
        for trial in asked:
            chosen = [axis.settings(trial.params[axis.name]) for axis in axes]
            proposals.append(dict(fixed) | {name: value for part in chosen for name, value in part.items()})
        every += proposals
        scores = yield Round(stage, proposals, may_stop_early=may_stop_early)
        for trial, settings in zip(asked, proposals, strict=True):
            score = scores(settings)
            study.tell(trial, score, state=TrialState.FAIL if score is None else TrialState.COMPLETE)
            repeats += key_of(settings) in seen
            seen.add(key_of(settings))
    if may_stop_early and every:
        yield Round(stage, every, may_stop_early=True)  # some may be contenders again


def _new_study(sampler: BaseSampler) -> Study:
    import optuna

    with quiet_optuna():
        return optuna.create_study(direction="maximize", sampler=sampler)


def _add_known(study: Study, axes: Sequence[ListAxis | RangeAxis], settings: Settings, score: float | None) -> None:
    """Adds settings that have a score and lie on the axes."""
    from optuna.trial import create_trial

    params = {axis.name: axis.parameter(settings) for axis in axes}
    if score is not None and None not in params.values():
        distributions = {axis.name: axis.distribution() for axis in axes}
        study.add_trial(create_trial(params=params, distributions=distributions, value=score))
