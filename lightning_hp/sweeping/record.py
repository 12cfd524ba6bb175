"""The trainings of a sweep in an Optuna study: one trial per training, so that nothing is trained twice.

claim:   create a trial that is running, with settings and seed; if an older trial of a live process has the same,
leave it to that process
finish:  write outcome and state
resume:  running trials whose process is gone, and failed ones, count as not made
"""

from __future__ import annotations

import math
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import psutil

from lightning_hp.functional.checks import is_number
from lightning_hp.functional.sweep.labels import key_of, label_of
from lightning_hp.functional.sweep.spacing import is_geometric
from lightning_hp.sweeping.optuna_messages import quiet_optuna
from lightning_hp.sweeping.outcome import Outcome
from lightning_hp.sweeping.space import Settings, Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

#: Marks a copy of a study that holds all its trials.
_COMPLETE = "complete"


@dataclass(frozen=True)
class Training:
    """What identifies a training.

    Attributes:
        settings: Values of all names.
        seed: The seed.
        is_probe: Whether it is one of the short trainings that measure the order.

    """

    settings: Settings
    seed: int
    is_probe: bool = False

    @property
    def key(self) -> str:
        """Equal for equal trainings."""
        return f"{key_of(self.settings)} seed={self.seed}{' probe' if self.is_probe else ''}"


@dataclass(frozen=True)
class Claim:
    """A running trial.

    Attributes:
        trial_id: Its id in the storage.
        number: Its number in the study.

    """

    trial_id: int
    number: int


#: Number, training, stage and outcome of a trial that ended.
Row: TypeAlias = tuple[int, Training, str, Outcome]


def read_rows(trials: Sequence[FrozenTrial], by_label: Mapping[str, Any]) -> list[Row]:
    """All trials that ended; the last one of each training, in order.

    Args:
        trials: The trials of a study.
        by_label: The values of the sweep by their labels.

    """
    rows: dict[str, Row] = {}
    for trial in trials:
        attrs = trial.user_attrs
        outcome = attrs.get("outcome")
        if trial.state.is_finished() and outcome is not None:
            settings = {name: _value_of(stored, by_label) for name, stored in attrs["settings"].items()}
            training = Training(settings, attrs["seed"], attrs["is_probe"])
            rows.pop(training.key, None)
            rows[training.key] = trial.number, training, attrs["stage"], Outcome(**outcome)
    return list(rows.values())


def values_by_label(space: Space) -> dict[str, Any]:
    """All values of a space by their labels."""
    values = [value for subject in space.subjects for row in subject.values for value in row]
    return {label_of(value): value for value in (*values, *space.start.values())}


class Record:
    """The study of a sweep.

    Args:
        storage: An Optuna storage.
        name: Name of the study.
        mode: ``"max"`` or ``"min"``.
        space: The subjects, for the names and the ranges of parameters.

    """

    def __init__(self, storage: BaseStorage, name: str, mode: str, space: Space) -> None:
        self._storage = storage
        self._direction: Literal["maximize", "minimize"] = "maximize" if mode == "max" else "minimize"
        values = {
            parameter: [row[place] for row in subject.values]
            for subject in space.subjects
            for place, parameter in enumerate(subject.names)
        }
        self._by_label = values_by_label(space)
        for parameter, value in space.start.items():
            values[parameter].append(value)
        self.study = self._open(name, values)
        self._study_id = storage.get_study_id_from_name(self.study.study_name)

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.study.study_name

    def note(self, name: str) -> Any:
        """What :meth:`set_note` wrote; ``None`` if nothing."""
        return self.study.user_attrs.get(name)

    def set_note(self, name: str, value: Any) -> None:
        """Writes something about the whole sweep, in JSON types."""
        self.study.set_user_attr(name, value)

    def rows(self) -> list[Row]:
        """All trials that ended; the last one of each training, in order."""
        return read_rows(self._trials(), self._by_label)

    def claim(self, training: Training, stage: str) -> Claim | None:
        """Creates a running trial; ``None`` if another live process trains the same, or has trained it."""
        from optuna.trial import TrialState, create_trial

        if self._is_taken(training.key):
            return None
        trial = create_trial(
            state=TrialState.RUNNING,
            params={name: _parameter(value, self._distributions[name]) for name, value in training.settings.items()},
            distributions={name: self._distributions[name] for name in training.settings},
            user_attrs={
                "key": training.key,
                "settings": {name: _stored(value) for name, value in training.settings.items()},
                "seed": training.seed,
                "is_probe": training.is_probe,
                "stage": stage,
                "process": _this_process(),
            },
        )
        trial_id = self._storage.create_new_trial(self._study_id, template_trial=trial)
        number = self._storage.get_trial_number_from_id(trial_id)
        if self._is_taken(training.key, number):  # by a process that looked at the same moment
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
            return None
        return Claim(trial_id, number)

    def _is_taken(self, key: str, before: float = math.inf) -> bool:
        """Whether a training with a lower number is running in a live process, or done."""
        from optuna.trial import TrialState

        for trial in self._trials():
            if trial.user_attrs.get("key") == key and trial.number < before:
                is_done = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
                if is_done or (not trial.state.is_finished() and _is_alive(trial)):
                    return True
        return False

    def finish(self, trial_id: int, outcome: Outcome) -> None:
        """Writes the outcome of a trial."""
        from optuna.trial import TrialState

        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        values = None if outcome.score is None else [outcome.score]
        self._storage.set_trial_user_attr(trial_id, "outcome", outcome.to_dict())
        self._storage.set_trial_state_values(trial_id, states[outcome.status], values)

    def give_up(self, trial_id: int) -> None:
        """Marks a trial that was interrupted; its training counts as not made."""
        from optuna.trial import TrialState

        self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def discard_stale(self) -> int:
        """Marks running trials whose process is gone; returns their number."""
        stale = [trial for trial in self._trials() if not trial.state.is_finished() and not _is_alive(trial)]
        for trial in stale:
            self.give_up(self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number))
        return len(stale)

    def wait_for(self, training: Training) -> Outcome:
        """The outcome of a training that another process makes, when it is there.

        Returns:
            A failure, if that process ends without one.

        """
        while True:
            trials = [trial for trial in self._trials() if trial.user_attrs.get("key") == training.key]
            for trial in reversed(trials):
                if trial.state.is_finished() and "outcome" in trial.user_attrs:
                    return Outcome(**trial.user_attrs["outcome"])
            if not any(not trial.state.is_finished() and _is_alive(trial) for trial in trials):
                return Outcome("failed", reason="the process that trained it ended; the next call trains it again")
            time.sleep(0.5)

    def _trials(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._study_id, deepcopy=False)

    def _value(self, stored: Any) -> Any:
        return _value_of(stored, self._by_label)

    def _open(self, name: str, values: dict[str, list[Any]]) -> Study:
        """Opens the study of this name, or creates it.

        Optuna fixes the choices of a parameter. If the values no longer fit, the trials are copied to a study with the
        next number, and the old one is deleted once the copy is complete.
        """
        import optuna
        from optuna.distributions import check_distribution_compatibility

        with quiet_optuna():
            number, study = self._latest(name)
            trials = [] if study is None else study.get_trials(deepcopy=False)
            for trial in trials:
                for parameter, stored in trial.user_attrs["settings"].items():
                    values.setdefault(parameter, []).append(self._value(stored))
            self._distributions = {parameter: _distribution(column) for parameter, column in values.items()}
            try:
                for trial in trials:
                    for parameter, old in trial.distributions.items():
                        check_distribution_compatibility(old, self._distributions[parameter])
            except ValueError:
                copy = self._create(_numbered(name, number + 1))
                copy.add_trials([self._converted(trial) for trial in trials])
                for note, value in study.user_attrs.items() if study else ():
                    copy.set_user_attr(note, value)
                copy.set_user_attr(_COMPLETE, True)
                optuna.delete_study(study_name=_numbered(name, number), storage=self._storage)
                return copy
            return study or self._create(name)

    def _create(self, name: str) -> Study:
        import optuna

        return optuna.create_study(
            storage=self._storage, study_name=name, direction=self._direction, load_if_exists=True
        )

    def _latest(self, name: str) -> tuple[int, Study | None]:
        """The study with the highest number; copies that were not completed are deleted."""
        import optuna

        latest: tuple[int, Study | None] = (1, None)
        for study_name in optuna.get_all_study_names(self._storage):
            match = re.fullmatch(rf"{re.escape(name)}(?: \((\d+)\))?", study_name)
            if match is None:
                continue
            study = optuna.load_study(study_name=study_name, storage=self._storage)
            number = int(match[1] or 1)
            if number > 1 and not study.user_attrs.get(_COMPLETE):
                optuna.delete_study(study_name=study_name, storage=self._storage)
            elif number >= latest[0]:
                latest = number, study
        return latest

    def _converted(self, trial: FrozenTrial) -> FrozenTrial:
        """A trial with the present distributions."""
        from optuna.trial import create_trial

        settings = {name: self._value(stored) for name, stored in trial.user_attrs["settings"].items()}
        return create_trial(
            state=trial.state,
            values=trial.values,
            params={name: _parameter(value, self._distributions[name]) for name, value in settings.items()},
            distributions={name: self._distributions[name] for name in settings},
            user_attrs=trial.user_attrs,
            intermediate_values=trial.intermediate_values,
        )


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name} ({number})"


def _distribution(values: Sequence[Any]) -> BaseDistribution:
    """The range of numbers, or the choices."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not all(map(is_number, values)):
        return CategoricalDistribution(list(dict.fromkeys(map(_choice, values))))
    low, high = min(values), max(values)
    if all(isinstance(value, int) for value in values):
        return IntDistribution(low, high, log=is_geometric([low, high]))
    return FloatDistribution(low, high, log=is_geometric([low, high]))


def _parameter(value: Any, distribution: BaseDistribution) -> Any:
    """A value as a parameter of Optuna."""
    from optuna.distributions import CategoricalDistribution

    return _choice(value) if isinstance(distribution, CategoricalDistribution) else value


def _choice(value: Any) -> str:
    return value if isinstance(value, str) else label_of(value)


def _value_of(stored: Any, by_label: Mapping[str, Any]) -> Any:
    """The value that was stored; the label itself if it is no longer among the values."""
    return by_label.get(stored["label"], stored["label"]) if isinstance(stored, dict) else stored


def _stored(value: Any) -> Any:
    """A value in JSON; what JSON does not hold by its label."""
    return value if isinstance(value, (bool, int, float, str, type(None))) else {"label": label_of(value)}


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _start_of(os.getpid())}


@lru_cache(maxsize=1)
def _start_of(pid: int) -> float:
    return psutil.Process(pid).create_time()


def _is_alive(trial: FrozenTrial) -> bool:
    """Whether the process that created a trial still runs; one on another machine counts as running."""
    process = trial.user_attrs.get("process", {})
    if process.get("host") != socket.gethostname():
        return bool(process)
    try:
        return bool(abs(psutil.Process(process["pid"]).create_time() - process["started"]) < 1)
    except psutil.NoSuchProcess:
        return False
