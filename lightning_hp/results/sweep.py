"""What a sweep measured: every training, which settings are good, and what each subject changes."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_hp.functional.checks import check_choice
from lightning_hp.functional.sweep.comparison import Comparison, compare_settings
from lightning_hp.functional.sweep.labels import key_of, short_label
from lightning_hp.results.fields import to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COSTS = {"parameters": "parameters", "latency": "latency_ms", "time": "seconds"}


@dataclass(frozen=True)
class SweepTrial:
    """One training of a sweep.

    Attributes:
        number: Number of the training in the study, from 0.
        settings: Names and values that ``build`` got.
        seed: Seed of the training.
        stage: What was swept: names of a subject, ``"grid"``, ``"sampler"`` or ``"refine"``.
        status: ``"complete"``, ``"failed"`` or ``"pruned"``.
        score: Value of the metric; ``None`` if it failed.
        reason: Why it failed, in one line.
        seconds: Duration with the searches of finders.
        parameters: Number of weights.
        latency_ms: Time of one sample in milliseconds, if it was measured.
        used: What it was trained with instead of the settings, by name: an ``lr`` or ``batch_size`` that finders found,
            or a rate that follows the batch size (``scale_lr``).
        log_dir: Folder of its logs.

    """

    number: int
    settings: Mapping[str, Any]
    seed: int
    stage: str
    status: str
    score: float | None = None
    reason: str | None = None
    seconds: float = 0.0
    parameters: int | None = None
    latency_ms: float | None = None
    used: Mapping[str, float] = field(default_factory=dict)
    log_dir: str | None = None

    def row(self) -> dict[str, Any]:
        """One flat row of a table: the settings, then what was used instead, then the other fields."""
        rest = {
            entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in ("settings", "used")
        }
        return {**self.settings, **{f"{name}_used": value for name, value in self.used.items()}, **rest}


@dataclass(frozen=True)
class SettingSummary:
    """One setting over all its seeds.

    Attributes:
        settings: The settings.
        mean: Mean score; NaN if a seed is missing, failed or was pruned.
        costs: ``parameters``, ``latency`` in milliseconds and ``time`` in seconds; NaN where unknown.
        is_tied: Whether it is the best, or cannot be told from it.

    """

    settings: dict[str, Any]
    mean: float
    costs: dict[str, float]
    is_tied: bool


@dataclass(frozen=True)
class SubjectEffect:
    """What the values of one subject change, all else equal.

    Attributes:
        subject: Its names, joined by a comma.
        values: The values that were compared, in the user's order; coupled ones are tuples.
        scores: The scores of each value; one column per seed and per setting of the other subjects.
        comparison: The comparison of the values.

    """

    subject: str
    values: tuple[Any, ...]
    scores: tuple[tuple[float, ...], ...]
    comparison: Comparison

    @property
    def best(self) -> Any:
        """The value with the best mean."""
        return self.values[self.comparison.best or 0]

    @property
    def ties(self) -> tuple[Any, ...]:
        """The values that cannot be told from the best, the best among them."""
        return tuple(self.values[row] for row in self.comparison.ties)

    @property
    def is_unused(self) -> bool:
        """Whether all values have the same scores to the last digit, with several seeds: the training ignores them."""
        return len(set(self.scores)) == 1 and len(set(self.scores[0])) > 1

    @property
    def effect(self) -> float:
        """The difference between the best and the worst value."""
        return max(map(abs, self.comparison.differences))

    @property
    def margin(self) -> float:
        """Half width of the interval of the effect; NaN with one seed."""
        worst = max(range(len(self.values)), key=lambda row: abs(self.comparison.differences[row]))
        return self.comparison.margins[worst]


@dataclass(frozen=True)
class SweepResult:
    """All trainings of a sweep.

    Attributes:
        trials: The trainings in the order in which they ended.
        subjects: The names of each subject and its values, in the user's order.
        seeds: The seeds of every setting.
        monitor: The metric.
        mode: ``"max"`` or ``"min"``.
        cost: What "cheaper" means for the recommendation: ``"parameters"``, ``"latency"`` or ``"time"``.
        order: Names of the subjects in the order in which they were swept.
        study: The study with one trial per training, for the plots and the dashboard of Optuna.

    """

    trials: tuple[SweepTrial, ...]
    subjects: tuple[tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]], ...]
    seeds: tuple[int, ...]
    monitor: str
    mode: str
    cost: str = "parameters"
    order: tuple[str, ...] = ()
    study: Any = field(default=None, repr=False, compare=False)

    @property
    def best(self) -> dict[str, Any]:
        """The settings with the best mean over the seeds.

        With ``scale_lr`` or ``retune`` the trainings had another learning rate or batch size, as :meth:`used` says.
        """
        return dict(self._settings[self._best])

    @property
    def best_score(self) -> float:
        """The mean score of :attr:`best`. It was chosen by these scores, so it is a little too good."""
        return self._comparison.means[self._best]

    @property
    def recommended(self) -> dict[str, Any]:
        """The cheapest settings whose mean is within one standard error of the best.

        The error is that of the paired difference to the best settings. With one seed it is unknown, and these are the
        best settings. As for :attr:`best`, :meth:`used` gives what their trainings had instead.
        """
        return dict(self._settings[self._recommended])

    @property
    def ties(self) -> list[dict[str, Any]]:
        """The settings that cannot be told from the best, with 95 % confidence for all of them; the best first."""
        rows = sorted(self._comparison.ties, key=lambda row: abs(self._comparison.differences[row]))
        return [dict(self._settings[row]) for row in rows]

    @cached_property
    def effects(self) -> dict[str, SubjectEffect]:
        """What the values of each subject change, the largest effect first.

        Compared are trainings with the same seed and the same values of all other subjects. A subject of which no two
        values were trained so is left out.
        """
        found = [effect for names, values in self.subjects if (effect := self._effect(names, values)) is not None]
        return {effect.subject: effect for effect in sorted(found, key=lambda effect: effect.effect, reverse=True)}

    def scores(self, settings: Mapping[str, Any]) -> tuple[float, ...]:
        """The scores of settings, one per seed; NaN where a training is missing, failed or was pruned.

        Raises:
            KeyError: If these settings were not trained.

        """
        key = key_of(settings)
        if key not in self._scores:
            raise KeyError(
                f"Expected settings that were trained, with the names {', '.join(self._names)}; got {settings}."
            )
        return tuple(self._scores[key].tolist())

    def cost_of(self, settings: Mapping[str, Any]) -> float:
        """The mean over the seeds of what :attr:`cost` names; NaN if it is unknown."""
        return self._cost([key_of(each) for each in self._settings].index(key_of(settings)), self.cost)

    def used(self, settings: Mapping[str, Any]) -> dict[str, float]:
        """What settings were trained with instead, by name: found by finders, or scaled with the batch size."""
        key = key_of(settings)
        return next((dict(trial.used) for trial in self.trials if trial.used and key_of(trial.settings) == key), {})

    def importances(self) -> dict[str, float] | None:
        """The share of the variance of the scores that each name explains (fANOVA), the largest first.

        Returns:
            Names and shares, or ``None`` with fewer than 20 settings or fewer than two names that vary.

        Raises:
            ModuleNotFoundError: If Optuna or scikit-learn is missing.

        Note:
            Each training counts as one trial. Meaningful where settings cover the space, as in a grid or with a
            sampler; for one subject at a time read :attr:`effects`.

        References:
            Hutter et al., *An Efficient Approach for Assessing Hyperparameter Importance*, 2014.

        """
        varied = [name for name in self._names if len({short_label(settings[name]) for settings in self._settings}) > 1]
        if len(self._settings) < 20 or len(varied) < 2 or self.study is None:
            return None
        import optuna

        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        shares: dict[str, float] = optuna.importance.get_param_importances(
            self.study, evaluator=evaluator, params=varied
        )
        return shares

    def to_pandas(self) -> Any:
        """The trainings as a ``pandas.DataFrame``, one row each.

        Raises:
            ModuleNotFoundError: If pandas is not installed.

        """
        import pandas as pd  # type: ignore[import-untyped]

        return pd.DataFrame([trial.row() for trial in self.trials])

    def to_yaml(self, path: str | Path | None = None, which: str = "recommended") -> str:
        """The recommended or the best settings as YAML, with what was used instead of them.

        Names such as ``model.lr`` are nested, as in a config.

        Args:
            path: A file to write to; ``None``: none.
            which: ``"recommended"`` or ``"best"``.

        Returns:
            The text.

        """
        import yaml  # type: ignore[import-untyped]

        check_choice("which", which, ("recommended", "best"))
        settings = self.recommended if which == "recommended" else self.best
        settings = {**settings, **self.used(settings)}  # the scores were reached with it
        nested: dict[str, Any] = {}
        for name in sorted(settings, key=lambda name: name.count(".")):  # `optimizer` before `optimizer.init_args.lr`
            *parts, last = name.split(".")
            place = nested
            for part in parts:
                place = place.setdefault(part, {})
            value = settings[name]
            place[last] = copy.deepcopy(value) if _is_json(value) else short_label(value)
        text: str = yaml.safe_dump(nested, sort_keys=False)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def to_dict(self) -> dict[str, Any]:
        """Trainings and conclusions in JSON types."""
        rows = [
            {name: value if _is_plain(value) else short_label(value) for name, value in t.row().items()}
            for t in self.trials
        ]
        chosen = {"best": self.best, "recommended": self.recommended} if self._comparison.best is not None else {}
        values = to_json({"monitor": self.monitor, "mode": self.mode, "trials": rows, **chosen})
        plain: dict[str, Any] = json.loads(json.dumps(values, default=short_label))
        return plain

    def plot(self) -> Figure:
        """Draws the score of each value of each subject, with intervals and every seed as a point.

        Returns:
            The figure; nothing is shown or saved.

        """
        from lightning_hp.plotting.sweep import plot_sweep

        return plot_sweep(self)

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows of all settings, the best first: values, mean, standard error, difference, costs."""
        replaced = list(dict.fromkeys(name for trial in self.trials for name in trial.used))
        header = [*self._names, *(f"{name} used" for name in replaced), f"mean {self.monitor}"]
        header += ["standard error", "to the best", "±", "seeds", *_COSTS]
        rows = []
        order = sorted(range(len(self._settings)), key=lambda row: _last_if_nan(abs(self._comparison.differences[row])))
        for row in order:
            settings, scores = self._settings[row], self._table[row]
            known = scores[np.isfinite(scores)]
            rows.append(
                [
                    *(short_label(settings.get(name, "-")) for name in self._names),
                    *(self.used(settings).get(name) for name in replaced),
                    float(known.mean()) if len(known) else None,
                    _none_if_nan(self._comparison.standard_errors[row]),
                    _none_if_nan(self._comparison.differences[row]),
                    _none_if_nan(self._comparison.margins[row]),
                    f"{len(known)} of {len(self.seeds)}",
                    *(_none_if_nan(self._cost(row, name)) for name in _COSTS),
                ]
            )
        return header, rows

    def __str__(self) -> str:
        from lightning_hp.results.sweep_text import describe_sweep

        return describe_sweep(self)

    def summaries(self) -> list[SettingSummary]:
        """Each setting with its mean score and its costs, in the order in which they were first trained."""
        return [
            SettingSummary(
                dict(settings),
                self._comparison.means[row],
                {name: self._cost(row, name) for name in _COSTS},
                row in self._comparison.ties,
            )
            for row, settings in enumerate(self._settings)
        ]

    @cached_property
    def _names(self) -> list[str]:
        return [name for names, _ in self.subjects for name in names]

    @cached_property
    def _scores(self) -> dict[str, Any]:
        """The scores of each setting, one per seed; NaN where there is none."""
        table: dict[str, Any] = {}
        for trial in self.trials:
            scores = table.setdefault(key_of(trial.settings), np.full(len(self.seeds), math.nan))
            if trial.status == "complete" and trial.seed in self.seeds:
                scores[self.seeds.index(trial.seed)] = trial.score
        return table

    @cached_property
    def _settings(self) -> list[Mapping[str, Any]]:
        """Each setting once, in the order in which it was first trained."""
        return list({key_of(trial.settings): trial.settings for trial in reversed(self.trials)}.values())[::-1]

    @cached_property
    def _table(self) -> Any:
        return np.array([self._scores[key_of(settings)] for settings in self._settings])

    @cached_property
    def _comparison(self) -> Comparison:
        return compare_settings(self._table, self.mode)  # type: ignore[arg-type]

    @property
    def _best(self) -> int:
        if self._comparison.best is None:
            raise ValueError("Expected settings that were trained with every seed, but there are none.")
        return self._comparison.best

    @cached_property
    def _recommended(self) -> int:
        def rank(row: int) -> tuple[float, float]:
            return _last_if_nan(self._cost(row, self.cost)), abs(self._comparison.differences[row])

        best = self._best
        return min(self._comparison.within_one_error, key=rank) if not math.isnan(self._cost(best, self.cost)) else best

    def _cost(self, row: int, name: str) -> float:
        """The mean cost of a setting over its seeds; NaN if it is unknown."""
        key = key_of(self._settings[row])
        values = [
            getattr(trial, _COSTS[name])
            for trial in self.trials
            if trial.status == "complete" and key_of(trial.settings) == key
        ]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else math.nan

    def _effect(self, names: Sequence[str], values: Sequence[tuple[Any, ...]]) -> SubjectEffect | None:
        """Compares the values in blocks: trainings with the same seed and the same rest of the settings."""
        blocks: dict[str, dict[str, Any]] = {}
        for settings in self._settings:
            rest = key_of({name: value for name, value in settings.items() if name not in names})
            blocks.setdefault(rest, {})[key_of({name: settings.get(name) for name in names})] = self._scores[
                key_of(settings)
            ]
        keys = [key_of(dict(zip(names, value, strict=True))) for value in values]
        complete = [
            {key: scores for key, scores in block.items() if key in keys and np.isfinite(scores).all()}
            for block in blocks.values()
        ]
        widest = max(complete, key=len, default={})
        if len(widest) < 2:
            return None
        rows = [key for key in keys if key in widest]
        columns = [block for block in complete if set(widest) <= set(block)]
        scores = [np.concatenate([block[key] for block in columns]) for key in rows]
        compared = [
            value[0] if len(names) == 1 else value for value, key in zip(values, keys, strict=True) if key in widest
        ]
        return SubjectEffect(
            ", ".join(names),
            tuple(compared),
            tuple(tuple(row.tolist()) for row in scores),
            # With one seed the other settings alone would show the noise, of which nothing is known.
            compare_settings(scores if len(self.seeds) > 1 else np.mean(scores, axis=1, keepdims=True), self.mode),  # type: ignore[arg-type]
        )


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str, type(None)))


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value
