"""Trains what a plan asks for and the storage lacks, then compares.

for each round of the strategy:
    for each of its settings and each seed:
        skip it if it was trained before
        build model, data and Trainer; fit; write the score to the study
    the strategy looks at the mean scores and asks for the next round
compare the settings in pairs of the same seed; recommend the cheapest within one standard error of the best
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_hp.reporting import log_columns
from lightning_hp.results.sweep import SweepResult
from lightning_hp.sweeping.experiment import refuse_another
from lightning_hp.sweeping.record import Record
from lightning_hp.sweeping.runner import Runner, SweepError
from lightning_hp.sweeping.sampling import REFINE, SAMPLER, refine, refining_sampler, sampled
from lightning_hp.sweeping.space import Space
from lightning_hp.sweeping.stored import NOTE, note_of, result_of
from lightning_hp.sweeping.strategies import grid, measured_order, one_at_a_time
from lightning_hp.sweeping.summary import log_summary

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Which settings are asked for; the arguments of these names of :func:`sweep`.

    Attributes:
        strategy: How settings are chosen.
        order: The order of the subjects.
        n_trials: Number of settings that a sampler chooses.
        refine: Number of further settings between the best values.
        batch: Settings that a sampler is asked for at once.

    """

    strategy: Any
    order: str
    n_trials: int | None
    refine: int
    batch: int

    @staticmethod
    def batch_of(workers: int, seeds: Sequence[int]) -> int:
        """As many settings at once as keep all workers busy."""
        return max(1, -(-workers // len(seeds)))


def carry_out(runner: Runner, space: Space, start: Any, options: Mapping[str, Any], plan: Plan) -> SweepResult:
    """Trains all that is missing, and compares.

    Args:
        runner: Trains.
        space: The subjects.
        start: The user's start.
        options: ``monitor``, ``mode`` and ``cost``.
        plan: Which settings are asked for.

    Raises:
        SweepError: If all trainings failed, or one and the runner stops on errors.

    """
    record = runner.record
    labels = [subject.label for subject in space.subjects]
    note = note_of(space, list(start or ()), runner.seeds, options, labels)
    record.set_note(NOTE, note)
    if runner.logdir is not None:
        log_columns(runner.logdir, {**space.start, "seed": runner.seeds[0]}, [options["monitor"]])
    stated = {name: space.start[name] for name in start or ()}  # of subjects that are new since an earlier call
    for _, training, stage, outcome in record.rows():
        if outcome.status != "failed":
            runner.note(replace(training, settings={**stated, **training.settings}), stage, outcome)
    swept = _follow(runner, space, plan)
    if list(swept) != labels:
        record.set_note(NOTE, {**note, "order": list(swept)})
    result = result_of(record.study, space)
    if result.trials and not any(trial.status == "complete" for trial in result.trials):
        raise SweepError(f"All {len(result.trials)} trainings failed; the first one: {result.trials[0].reason}")
    for effect in result.effects.values():
        if effect.is_unused:
            _log.warning(f"All values of {effect.subject} have exactly the same scores: the training does not use it.")
    if runner.logdir is not None:
        log_summary(result, runner.logdir)
    return result


def _follow(runner: Runner, space: Space, plan: Plan) -> tuple[str, ...]:
    """Trains what the plan asks for; returns the subjects in the order in which they were swept."""
    subjects = runner.follow(measured_order(space)) if plan.order == "measured" else space.subjects
    if plan.strategy == "one_at_a_time":
        runner.follow(one_at_a_time(space, subjects))
    elif plan.strategy == "grid":
        runner.follow(grid(space))
    else:
        asked = runner.settings_of(SAMPLER)
        runner.follow(sampled(space, asked, plan.strategy, plan.n_trials or 0, plan.batch))
    if plan.refine:
        asked, known = runner.settings_of(REFINE), list(runner.settings.values())
        runner.follow(refine(space, known, asked, runner.score, refining_sampler(), plan.refine, plan.batch))
    return tuple(subject.label for subject in subjects)


def continue_record(record: Record, experiment: dict[str, Any], where: str) -> None:
    """Refuses a storage of another experiment, and tidies up what an earlier call left."""
    stored = record.note("experiment")
    if stored is not None:
        if stored["data"][0] != experiment["data"][0]:  # another start: its data may differ with the settings
            experiment = {**experiment, "data": stored["data"]}
        refuse_another(stored, experiment, where)
    record.set_note("experiment", experiment)
    record.discard_stale()


def probe_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A fifth of the epochs or steps."""
    steps = arguments.get("max_steps", -1)
    if steps > 0:
        return {"max_steps": max(1, steps // 5)}
    return {"max_epochs": max(1, (arguments.get("max_epochs") or 5) // 5)}
