"""The result of a sweep from its study alone: the study keeps subjects, seeds and metric beside the trainings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_hp.functional.sweep.labels import label_of
from lightning_hp.results.sweep import SweepResult, SweepTrial
from lightning_hp.sweeping.optuna_messages import quiet_optuna
from lightning_hp.sweeping.record import read_rows, values_by_label
from lightning_hp.sweeping.sampling import REFINE
from lightning_hp.sweeping.space import Space
from lightning_hp.sweeping.storage import open_storage

if TYPE_CHECKING:
    from optuna import Study

#: The name of the note in the study.
NOTE = "sweep"


def note_of(
    space: Space, stated: Sequence[str], seeds: Sequence[int], options: Mapping[str, Any], order: Sequence[str]
) -> dict[str, Any]:
    """What a result needs beside the trainings, in JSON types.

    Args:
        space: The subjects.
        stated: The names whose start the user gave.
        seeds: The seeds.
        options: ``monitor``, ``mode`` and ``cost``.
        order: The labels of the subjects in the order in which they are swept.

    """
    return {
        "subjects": [
            [list(subject.names), [list(map(_to_json, row)) for row in subject.values]] for subject in space.subjects
        ],
        "start": {name: _to_json(space.start[name]) for name in stated},
        "seeds": list(seeds),
        **{name: options[name] for name in ("monitor", "mode", "cost")},
        "order": list(order),
    }


def result_of(study: Study, space: Space | None = None) -> SweepResult:
    """The result of a study.

    Args:
        study: A study with a note.
        space: The subjects; ``None``: those of the note, where a function or class is its name.

    """
    note = study.user_attrs[NOTE]
    subjects = space or _space_in(note)
    stated = {name: subjects.start[name] for name in note["start"]}
    trials = []
    for number, training, stage, outcome in read_rows(study.get_trials(deepcopy=False), values_by_label(subjects)):
        settings = {**stated, **training.settings}
        if training.is_probe or not subjects.holds(settings, may_lie_between=stage == REFINE):
            continue  # also what an earlier call trained with values that are no longer in the lists
        shared = ("status", "score", "reason", "seconds", "parameters", "latency_ms", "used", "log_dir")
        fields = {name: getattr(outcome, name) for name in shared}
        ordered = {name: settings[name] for name in subjects.names}
        trials.append(SweepTrial(number, ordered, training.seed, stage, **fields))
    return SweepResult(
        trials=tuple(trials),
        subjects=tuple((subject.names, subject.values) for subject in subjects.subjects),
        seeds=tuple(note["seeds"]),
        monitor=note["monitor"],
        mode=note["mode"],
        cost=note["cost"],
        order=tuple(note["order"]),
        study=study,
    )


def load_result(address: Any, name: str | None = None) -> SweepResult:
    """The result of a sweep that a storage holds, also of one that is not finished.

    Args:
        address: A path, a URL or a storage object.
        name: Name of the study; ``None`` if the storage holds one sweep.

    Raises:
        ValueError: If there is no sweep of this name, or there are several and none is named.

    """
    import optuna

    storage = open_storage(address)
    with quiet_optuna():
        studies: dict[str, tuple[int, Study]] = {}
        for study_name in optuna.get_all_study_names(storage):
            study = optuna.load_study(study_name=study_name, storage=storage)
            match = re.fullmatch(r"(.*?)(?: \((\d+)\))?", study_name, re.DOTALL)
            if match is None or NOTE not in study.user_attrs:
                continue
            numbered = int(match[2] or 1), study
            if numbered[0] >= studies.get(match[1], numbered)[0]:
                studies[match[1]] = numbered
    found = ", ".join(map(repr, studies)) or "none"
    if name is None and len(studies) > 1:
        raise ValueError(f"Expected the name of one of the sweeps in {address}, which are {found}.")
    if not studies or (name is not None and name not in studies):
        wanted = "a sweep" if name is None else f"a sweep of the name {name!r}"
        raise ValueError(f"Expected {wanted} in {address}; there is {found}.")
    return result_of(studies[name or next(iter(studies))][1])


def _space_in(note: Mapping[str, Any]) -> Space:
    subjects: dict[Any, list[Any]] = {}
    for names, rows in note["subjects"]:
        values = [tuple(map(_from_json, row)) for row in rows]
        subjects[names[0] if len(names) == 1 else tuple(names)] = (
            [row[0] for row in values] if len(names) == 1 else values
        )
    return Space(subjects, {name: _from_json(value) for name, value in note["start"].items()})


def _to_json(value: Any) -> Any:
    """A value that JSON holds exactly, as it is; any other by its label."""
    try:
        is_same = label_of(json.loads(json.dumps(value))) == label_of(value)
    except (TypeError, ValueError):
        is_same = False
    return [value] if is_same else label_of(value)


def _from_json(stored: Any) -> Any:
    return stored[0] if isinstance(stored, list) else stored
