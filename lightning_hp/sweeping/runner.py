"""Trains what a strategy asks for: each setting with each seed, once, here or on an executor."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lightning_hp.functional.sweep.comparison import compare_settings
from lightning_hp.functional.sweep.labels import describe, key_of, short_label
from lightning_hp.sweeping.executors import Executor, run_all
from lightning_hp.sweeping.outcome import Outcome
from lightning_hp.sweeping.progress import Progress
from lightning_hp.sweeping.record import Claim, Record, Training
from lightning_hp.sweeping.scaled_rate import ScaledRate
from lightning_hp.sweeping.space import Settings
from lightning_hp.sweeping.strategies import Plan, Round
from lightning_hp.sweeping.training import Job, one_line, train

_log = logging.getLogger(__name__)


class SweepError(RuntimeError):
    """A training of a sweep failed, and the sweep was to stop then."""


@dataclass
class Runner:
    """Trains, and knows the scores.

    Attributes:
        record: The study.
        job: What all trainings have in common.
        seeds: The seeds of every setting.
        sign: 1 if a higher score is better, -1 otherwise.
        probe_trainer: Arguments of the Trainer of the short trainings that measure the order.
        executor: Where to train; ``None``: in this process.
        in_flight: The most trainings at once on the executor; ``None``: all that are asked for.
        stop_on_error: Whether a failed training ends the sweep.
        logdir: Folder of the logs, or ``None``.
        pruning: Address of the storage and the pruner, or ``None``.
        progress: The progress bar.
        rate: The learning rate that follows the batch size, or ``None``.
        train: The function that trains.

    """

    record: Record
    job: Job
    seeds: Sequence[int]
    sign: int
    probe_trainer: Mapping[str, Any]
    executor: Executor | None
    in_flight: int | None
    stop_on_error: bool
    logdir: str | None
    pruning: tuple[Any, Any] | None
    progress: Progress
    rate: ScaledRate | None = None
    train: Callable[[Job], Outcome] = train
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    settings: dict[str, Settings] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    _by_settings: dict[str, dict[int, Outcome]] = field(default_factory=dict)
    _scored: dict[str, float] = field(default_factory=dict)

    def follow(self, plan: Plan) -> Any:
        """Trains all rounds of a plan; returns what the plan returns."""
        try:
            asked = next(plan)
            while True:
                self._train_round(asked)
                asked = plan.send(self._score_of_probe if asked.is_probe else self.score)
        except StopIteration as end:
            return end.value

    def note(self, training: Training, stage: str, outcome: Outcome) -> None:
        """Notes the outcome of a training."""
        self.outcomes[training.key] = outcome
        if not training.is_probe:
            key = key_of(training.settings)
            self.settings.setdefault(key, training.settings)
            self.stages.setdefault(key, stage)
            self._by_settings.setdefault(key, {})[training.seed] = outcome
            self._scored.pop(key, None)
            if (score := self._score_of(key)) is not None:
                self._scored[key] = score

    def settings_of(self, stage: str) -> list[Settings]:
        """The settings that were first trained in a stage."""
        return [settings for key, settings in self.settings.items() if self.stages[key] == stage]

    def score(self, settings: Settings) -> float | None:
        """The mean over the seeds, higher is better; ``None`` if a training failed or none was made.

        Settings that were left after some of their seeds have the score of the best plus their mean difference to it.
        Settings with a pruned training are at most as good as the worst that were not pruned.
        """
        return self._score_of(key_of(settings))

    def _score_of(self, key: str) -> float | None:
        by_seed = self._by_settings.get(key, {})
        outcomes = [by_seed.get(seed) for seed in self.seeds]
        made = [outcome for outcome in outcomes if outcome is not None]
        if not made or any(outcome.score is None or outcome.status == "failed" for outcome in made):
            return None
        scores = np.array([math.nan if o is None else self.sign * float(o.score or 0.0) for o in outcomes])
        mean = float(np.nanmean(scores))
        if any(outcome.status == "pruned" for outcome in made):
            return min(mean, *(float(row.mean()) for row in self._complete()), mean)
        if len(made) < len(outcomes) and (complete := self._complete()):
            best = max(complete, key=lambda row: float(row.mean()))
            mean = float(best.mean() + np.nanmean(scores - best))
        return mean

    def _score_of_probe(self, settings: Settings) -> float | None:
        outcome = self.outcomes.get(Training(settings, self.seeds[0], is_probe=True).key)
        return None if outcome is None or outcome.score is None else self.sign * outcome.score

    def _complete(self) -> list[Any]:
        """The scores of all settings that were trained with every seed, higher is better."""
        rows = []
        for by_seed in self._by_settings.values():
            outcomes = [by_seed.get(seed) for seed in self.seeds]
            if all(outcome is not None and outcome.status == "complete" for outcome in outcomes):
                rows.append(np.array([self.sign * float(o.score) for o in outcomes if o and o.score is not None]))
        return rows

    def _train_round(self, asked: Round) -> None:
        """Trains what is not known, seed by seed where later seeds depend on the first."""
        unique = list({key_of(settings): settings for settings in asked.settings}.values())
        seeds = self.seeds[:1] if asked.is_probe else self.seeds
        stepwise = asked.may_stop_early or bool(self.job.finders)
        if not stepwise:
            self._train(
                [Training(settings, seed, asked.is_probe) for settings in unique for seed in seeds], asked.stage
            )
            return
        for seed in seeds:
            self._train([Training(settings, seed, asked.is_probe) for settings in unique], asked.stage)
            if asked.may_stop_early:
                unique = [settings for settings in unique if self._is_contender(settings)]

    def _is_contender(self, settings: Settings) -> bool:
        """Whether settings may still be the best: not below it by more than one standard error of what is known."""
        complete = self._complete()
        known = [self.outcomes.get(Training(settings, seed).key) for seed in self.seeds]
        if any(outcome is not None and outcome.status != "complete" for outcome in known):
            return False
        if len(complete) < 2 or len(self.seeds) < 2:
            return True
        scores = np.array([self.sign * float(o.score) if o and o.score is not None else math.nan for o in known])
        compared = compare_settings(complete)
        best = complete[compared.best or 0]
        single = np.median([error for error in compared.errors if error > 0] or [0.0]) * math.sqrt(len(self.seeds))
        made = int(np.isfinite(scores).sum())
        return bool(np.nanmean(scores - best) >= -single / math.sqrt(made))

    def _train(self, trainings: Sequence[Training], stage: str) -> None:
        missing = [training for training in trainings if training.key not in self.outcomes]
        self.progress.expect(len(missing))
        elsewhere: list[Training] = []
        running: dict[int, Training] = {}
        jobs = self._jobs(missing, stage, running, elsewhere)
        try:
            # Closed at once by an error: what was submitted is cancelled.
            with closing(run_all(self.executor, self.train, jobs, self.in_flight)) as results:
                for job, result in results:
                    outcome = result if isinstance(result, Outcome) else Outcome("failed", reason=one_line(result))
                    self._conclude(running.pop(job.trial_id), stage, job.trial_id, outcome)
        finally:
            for trial_id in running:  # an interrupt, or an error that ends the sweep
                self.record.give_up(trial_id)
        for training in elsewhere:
            outcome = self.record.wait_for(training)
            self.note(training, stage, outcome)
            self.progress.advance(self._best_so_far(), _in_words(training, outcome))

    def _jobs(
        self, trainings: Sequence[Training], stage: str, running: dict[int, Training], elsewhere: list[Training]
    ) -> Iterator[Job]:
        """Claims each training when there is room for it."""
        for training in trainings:
            claimed = self.record.claim(training, stage)
            if claimed is None:
                elsewhere.append(training)
            else:
                running[claimed.trial_id] = training
                yield self._job_of(training, claimed)

    def _job_of(self, training: Training, claim: Claim) -> Job:
        others = [self.outcomes.get(Training(training.settings, seed).key) for seed in self.seeds]
        found = [outcome.finders for outcome in others if outcome is not None and outcome.finders]
        changes: dict[str, Any] = {"trainer": {**self.job.trainer, **self.probe_trainer}} if training.is_probe else {}
        if self.pruning is not None and not training.is_probe:
            address, pruner = self.pruning
            changes["pruning"] = address, self.record.name, claim.trial_id, pruner
        if self.logdir is not None and not training.is_probe:
            changes["log_dir"] = f"{self.logdir}/{_folder_name(claim.number, training)}"
        return replace(
            self.job,
            settings=training.settings if self.rate is None else self.rate(training.settings),
            seed=training.seed,
            trial_id=claim.trial_id,
            found=tuple(found[0]) if found else (),
            **changes,
        )

    def _conclude(self, training: Training, stage: str, trial_id: int, outcome: Outcome) -> None:
        """Records an outcome; raises if it ends the sweep."""
        if self.rate is not None:
            outcome = replace(outcome, used={**self.rate.used(training.settings), **outcome.used})
        self.record.finish(trial_id, outcome)
        self.note(training, stage, outcome)
        self.progress.advance(self._best_so_far(), _in_words(training, outcome))
        if outcome.ends_sweep:
            raise SweepError(outcome.reason)
        if outcome.status == "failed":
            text = f"The training with {_in_words(training, outcome)}"
            if self.stop_on_error:
                raise SweepError(f"{text}\n\n{outcome.traceback or ''}".rstrip())
            _log.warning(text)

    def _best_so_far(self) -> str:
        if not self._scored:
            return ""
        key = max(self._scored, key=self._scored.__getitem__)
        score, settings = self._scored[key], self.settings[key]
        return f"best {self.sign * score:.4g} with {describe(settings)}"


def _in_words(training: Training, outcome: Outcome) -> str:
    """A training and how it ended, on one line."""
    what = f"{describe(training.settings)}, seed {training.seed}"
    if outcome.status == "failed" or outcome.score is None:
        return f"{what}, failed: {outcome.reason}"
    pruned = ", pruned" if outcome.status == "pruned" else ""
    return f"{what}{', short' if training.is_probe else ''}: {outcome.score:.4g}{pruned}, {outcome.seconds:.1f} s"


def _folder_name(number: int, training: Training) -> str:
    """Number, settings and seed as the name of a folder."""
    values = "_".join(f"{name}={short_label(value)}" for name, value in training.settings.items())
    safe = re.sub(r"[^\w=.,+-]+", "-", values)[:120]
    return f"trial_{number:03}_{safe}_seed={training.seed}"
