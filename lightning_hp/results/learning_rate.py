"""The result of the search of a learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from lightning_hp.functional.checks import (
    check_array,
    check_bool,
    check_choice,
    check_instance,
    check_int,
    check_iterable,
    check_number,
    check_str,
    wrong_type,
    wrong_value,
)
from lightning_hp.functional.learning_rate.rules import RULES
from lightning_hp.functional.learning_rate.short_trainings import TrainedChoice
from lightning_hp.functional.learning_rate.suggestion import LRSuggestion
from lightning_hp.results.fields import (
    check_losses,
    check_rates,
    check_sweeps,
    from_json,
    none_to_nan,
    optional,
    set_fields,
    to_json,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Rules that are read from the second sweep, if there is one; the others are made for the whole range.
_READ_FROM_ZOOM = ("fall", "one_cycle", "half")

#: What lies in the interval, for the rules that it belongs to.
_INTERVALS = {"fall": "50 to 80 % of the fall lie", "trainings": "the best rate is likely"}


@dataclass(frozen=True, eq=False)
class LearningRateResult:
    """The result of a search: its losses, the suggested learning rate and those that other rules find.

    Four kinds of learning rates are kept apart: the one *found* by each rule (``rules``), the *suggested* one
    (``suggestion``), the one *before* the range test (``lr_before``), and the one *used* for the training
    (``lr_used``).

    Attributes:
        lrs: Learning rates of the sweep, positive and strictly increasing, shape (steps,).
        losses: Losses, shape (repeats, steps); NaN for steps that a sweep did not reach.
        smoothed: Smoothed median of the losses, shape (steps,); NaN where it is unknown.
        suggestion: The learning rate suggested by ``rule``, > 0; ``None`` if there is no suggestion.
        interval: Where the best rate is likely to lie, around the short trainings that reach 90 % of the best fall; its
            ends may be far worse than the suggestion. For the rule ``"fall"`` the rates at 50 % and at 80 % of the fall
            of the range test. ``None`` if unknown.
        rules: Name of each rule and the learning rate it finds, or ``None``.
        rule: Name of the rule that gives the suggestion; a key of ``rules``.
        lr_before: Learning rate of the model before the range test.
        lr_used: Learning rate used for the training.
        reason: Why there is no suggestion, in one sentence, or ``None``.
        note: Advice on the suggestion, in one sentence, or ``None``.
        edge: Learning rate above which the loss explodes; ``None`` if the sweep did not reach it.
        per_repeat: What the rule ``fall`` suggests for each repeat on its own.
        signal: Depth of the fall in standard deviations of a single loss, >= 0.
        num_steps: Training steps of the rehearsal.
        seconds: Duration of the search.
        planned_steps: Training steps of the training itself, or ``None`` if unknown.
        zoom_lrs: Learning rates of a second sweep over the part where the loss falls; empty if there was none.
        zoom_losses: Losses of the second sweep, as ``losses``.
        zoom_smoothed: Smoothed losses of the second sweep, as ``smoothed``.
        trained_lrs: Learning rates of short trainings, as ``lrs``; empty if there were none.
        trained_losses: Their losses over the same batches, shape (rates, steps); NaN after a training exploded.
        checked_losses: Losses of a longer training at the suggestion, shape (steps,); empty if there was none.
        zoom_is_read: Whether the suggestion was read from the second sweep. Then ``fall``, ``one_cycle``, ``half``,
            ``interval``, ``per_repeat`` and ``signal`` belong to it.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a number is out of its range, shapes do not match, or ``rule`` is no key of ``rules``.

    Note:
        Holds numbers and strings only, neither the model nor the Trainer: it can be pickled and copied.
        [`LRFinder`][lightning_hp.LRFinder] builds it.

    References:
        Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017 (the range test).

    Example:
        >>> from lightning_hp.functional import lr_range, suggest_lr
        >>> lrs = lr_range(1e-6, 10, 99)
        >>> losses = 2.3 - 2 / (1 + 1e-3 / lrs) + (lrs / 0.3) ** 4
        >>> suggestion = suggest_lr(lrs, losses)
        >>> result = LearningRateResult.from_range_test(lrs, losses, suggestion, lr_before=0.1, seconds=1.5)
        >>> print(result.with_used(result.suggestion))
        Suggested learning rate 0.00193: two thirds of the fall; 50 to 80 % of the fall lie between 0.000945 and 0.00382
          before 0.1, used 0.00193
          fall 0.00193 | one_cycle 0.00681 | half 0.000945 | steepest 0.00439 | valley 0.000848 | slide 0.00268 | ...
          99 steps in 1.5 s, from 1e-06 to 10; the fall is ... times the noise

    """

    lrs: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    smoothed: tuple[float, ...]
    suggestion: float | None
    interval: tuple[float, float] | None
    rules: Mapping[str, float | None] = field(hash=False)
    rule: str
    lr_before: float
    lr_used: float
    reason: str | None = None
    note: str | None = None
    edge: float | None = None
    per_repeat: tuple[float | None, ...] = ()
    signal: float = 0.0
    num_steps: int = 0
    seconds: float = 0.0
    zoom_lrs: tuple[float, ...] = ()
    zoom_losses: tuple[tuple[float, ...], ...] = ()
    zoom_smoothed: tuple[float, ...] = ()
    zoom_is_read: bool = False
    trained_lrs: tuple[float, ...] = ()
    trained_losses: tuple[tuple[float, ...], ...] = ()
    checked_losses: tuple[float, ...] = ()
    planned_steps: int | None = None

    def __post_init__(self) -> None:
        self._check_sweep("lrs", "losses", "smoothed")
        zoom = ("zoom_lrs", "zoom_losses", "zoom_smoothed")
        if any(check_iterable(name, getattr(self, name), "a tuple") for name in zoom):
            self._check_sweep(*zoom)
        else:
            set_fields(self, **dict.fromkeys(zoom, ()))
        self._check_trainings()
        rules = _check_rules(self.rules)
        per_repeat = check_iterable("per_repeat", self.per_repeat, "a tuple of learning rates and None")
        set_fields(
            self,
            suggestion=_optional_rate("suggestion", self.suggestion),
            interval=_check_interval(self.interval),
            rules=rules,
            rule=check_choice("rule", self.rule, rules),
            lr_before=check_number("lr_before", self.lr_before),
            lr_used=check_number("lr_used", self.lr_used),
            reason=optional(check_str, "reason", self.reason),
            note=optional(check_str, "note", self.note),
            edge=_optional_rate("edge", self.edge),
            per_repeat=tuple(_optional_rate("per_repeat", lr) for lr in per_repeat),
            signal=check_number("signal", self.signal, minimum=0, finite=False),
            num_steps=check_int("num_steps", self.num_steps, 0),
            seconds=check_number("seconds", self.seconds, minimum=0),
            zoom_is_read=check_bool("zoom_is_read", self.zoom_is_read),
            planned_steps=optional(check_int, "planned_steps", self.planned_steps, 0),
        )

    def _check_sweep(self, *names: str) -> None:
        """Checks the fields of one sweep: learning rates, losses, smoothed losses."""
        lrs, losses, smoothed = names
        rates = check_rates(lrs, getattr(self, lrs))
        set_fields(
            self,
            **{
                lrs: rates,
                losses: check_sweeps(losses, getattr(self, losses), len(rates)),
                smoothed: check_losses(smoothed, getattr(self, smoothed), len(rates)),
            },
        )

    def _check_trainings(self) -> None:
        """Checks the fields of the short trainings."""
        checked = check_iterable("checked_losses", self.checked_losses, "a tuple of losses")
        set_fields(self, checked_losses=check_losses("checked_losses", checked, len(checked)) if checked else ())
        trained, losses = ("trained_lrs", self.trained_lrs), ("trained_losses", self.trained_losses)
        if not check_iterable(*trained, "a tuple") and not check_iterable(*losses, "a tuple"):
            set_fields(self, trained_lrs=(), trained_losses=())
            return
        rates = check_rates(*trained, at_least=1)
        rows = check_array(*losses, what := f"losses of shape ({len(rates)}, steps)")
        if rows.ndim != 2 or len(rows) != len(rates):
            wrong_value(losses[0], what, self.trained_losses)
        set_fields(self, trained_lrs=rates, trained_losses=check_sweeps(*losses, rows.shape[1]))

    @classmethod
    def from_range_test(
        cls,
        lrs: ArrayLike,
        losses: ArrayLike,
        suggestion: LRSuggestion,
        *,
        lr_before: float,
        rule: str = "fall",
        is_named: bool = False,
        seconds: float = 0.0,
        planned_steps: int | None = None,
    ) -> LearningRateResult:
        """Builds the result of a range test whose suggestion is not used yet: ``lr_used`` is ``lr_before``.

        Args:
            lrs: Learning rates, positive and strictly increasing, shape (steps,).
            losses: Losses, shape (steps,) or (repeats, steps); not finite for steps that a sweep did not reach.
            suggestion: The reading of these losses by :func:`~lightning_hp.functional.suggest_lr`.
            lr_before: Learning rate of the model before the range test.
            rule: Name of the rule that gives the suggestion. If ``suggestion`` refuses the curve, no rule gives one.
            is_named: Whether the user asked for this rule: if it finds a rate, it then gives it, with the reason of the
                refusal as a note.
            seconds: Duration of the range test.
            planned_steps: Training steps of the training itself, or ``None`` if unknown.

        Returns:
            The result.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If the shapes do not match or there is no rule of that name.

        """
        _check_reading(suggestion)
        rates = check_rates("lrs", lrs)
        sweeps = check_sweeps("losses", losses, len(rates))
        return cls(
            lrs=rates,
            losses=sweeps,
            smoothed=check_losses("suggestion.smoothed", suggestion.smoothed, len(rates)),
            lr_before=lr_before,
            lr_used=lr_before,
            num_steps=_count_steps(sweeps),
            seconds=seconds,
            planned_steps=planned_steps,
            **_read(suggestion, rule, is_named=check_bool("is_named", is_named)),
        )

    def with_zoom(
        self, lrs: ArrayLike, losses: ArrayLike, suggestion: LRSuggestion, seconds: float = 0.0
    ) -> LearningRateResult:
        """Returns a copy with a second sweep over the part where the loss falls.

        The suggestion is read from the second sweep, unless that sweep supports none. The rules of other tools keep
        what they found in the first sweep, since they are made for the whole range.

        Args:
            lrs: Learning rates of the second sweep, shape (steps,).
            losses: Its losses, shape (steps,) or (repeats, steps).
            suggestion: The reading of these losses by :func:`~lightning_hp.functional.suggest_lr`.
            seconds: Duration of the second sweep.

        Returns:
            A new result with the steps and the seconds of both sweeps.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If the shapes do not match.

        """
        _check_reading(suggestion)
        rates = check_rates("lrs", lrs)
        sweeps = check_sweeps("losses", losses, len(rates))
        result = replace(
            self,
            zoom_lrs=rates,
            zoom_losses=sweeps,
            zoom_smoothed=check_losses("suggestion.smoothed", suggestion.smoothed, len(rates)),
            num_steps=self.num_steps + _count_steps(sweeps),
            seconds=self.seconds + check_number("seconds", seconds, minimum=0),
        )
        if suggestion.lr is None:
            return result
        rules = {**self.rules, **{name: suggestion.rules.get(name) for name in _READ_FROM_ZOOM}}
        # The range of the second sweep is not the user's: what there is to say about the range, the first one says.
        suggestion = replace(suggestion, edge=suggestion.edge or self.edge, note=self.note)
        return replace(result, zoom_is_read=True, **_read(replace(suggestion, rules=rules), self.rule))

    def with_trainings(
        self,
        losses: Mapping[float, Sequence[float]],
        choice: TrainedChoice,
        *,
        checked_losses: Sequence[float] = (),
        num_steps: int | None = None,
        note: str | None = None,
        seconds: float = 0.0,
    ) -> LearningRateResult:
        """Returns a copy whose suggestion comes from short trainings.

        Args:
            losses: The losses of each learning rate; fewer where a training exploded.
            choice: What was chosen by [`choose_rate`][lightning_hp.functional.choose_rate].
            checked_losses: Losses of a longer training at the suggestion.
            num_steps: Steps of the whole search; ``None``: those whose losses are given.
            note: What this training changed, in one sentence, or ``None``.
            seconds: Duration of the trainings.

        Returns:
            A new result with the steps and the seconds of all.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If a learning rate is not positive, or there is none.

        """
        what = "a dict of learning rates and the losses of their trainings"
        if not isinstance(losses, Mapping):
            wrong_type("losses", what, losses)
        if not losses:
            wrong_value("losses", what, losses)
        check_instance("choice", choice, TrainedChoice, "a TrainedChoice")
        trainings = sorted((check_number("losses", lr, above=0), list(row)) for lr, row in losses.items())
        steps = max(len(row) for _, row in trainings)
        return replace(
            self,
            suggestion=choice.lr,
            interval=choice.interval,
            rules={"trainings": choice.lr, **self.rules},
            rule="trainings",
            reason=choice.reason,
            note=note,
            num_steps=self.num_steps + sum(len(row) for _, row in trainings) + len(checked_losses)
            if num_steps is None
            else num_steps,
            seconds=self.seconds + check_number("seconds", seconds, minimum=0),
            trained_lrs=tuple(lr for lr, _ in trainings),
            trained_losses=tuple(tuple(row) + (math.nan,) * (steps - len(row)) for _, row in trainings),
            checked_losses=tuple(checked_losses),
        )

    def with_used(self, lr: float) -> LearningRateResult:
        """Returns a copy with the learning rate that the training uses.

        Args:
            lr: The learning rate.

        Returns:
            The copy.

        Raises:
            TypeError: If ``lr`` is no number.
            ValueError: If ``lr`` is not finite.

        """
        return replace(self, lr_used=check_number("lr", lr))

    def curve(self, rule: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns the curve that a rule is read from.

        Args:
            rule: A key of ``rules``.

        Returns:
            Learning rates and smoothed losses, both of shape (steps,).

        Raises:
            TypeError: If ``rule`` is no string.
            ValueError: If there is no rule of that name.

        """
        check_choice("rule", rule, self.rules)
        if self.zoom_is_read and rule in _READ_FROM_ZOOM:
            return self.zoom_lrs, self.zoom_smoothed
        return self.lrs, self.smoothed

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plots the range test with [`plot_learning_rate`][lightning_hp.plotting.plot_learning_rate].

        Args:
            ax: Where to plot; ``None`` creates a figure.

        Returns:
            The Axes.

        """
        from lightning_hp.plotting import plot_learning_rate

        return plot_learning_rate(self, ax)

    @property
    def why(self) -> str:
        """Where the suggestion comes from and where the best rate is likely to lie, in one line."""
        text = RULES.get(self.rule, self.rule)
        if self.rule == "trainings":
            text = f"by {len(self.trained_lrs)} short trainings of {len(self.trained_losses[0])} steps"
            if self.checked_losses:
                text += f", checked over {len(self.checked_losses)}"
        if self.interval is not None and self.rule in _INTERVALS:
            text += "; {} between {:.3g} and {:.3g}".format(_INTERVALS[self.rule], *self.interval)
        return text

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Returns header and rows for a logger: the learning rate suggested, before, used, and found by each rule."""
        rows: list[list[Any]] = [
            ["suggested", self.suggestion, self.reason or self.why],
            ["before", self.lr_before, "before the range test"],
            ["used", self.lr_used, "used for the training"],
        ]
        rows += [[name, lr, RULES.get(name, name)] for name, lr in self.rules.items()]
        if self.interval is not None and self.rule in _INTERVALS:
            what = f"{_INTERVALS[self.rule]} between the lowest and the highest"
            rows += [["lowest", self.interval[0], what], ["highest", self.interval[1], what]]
        if self.edge is not None:
            rows.append(["edge", self.edge, "a quarter of the fall is lost again"])
        return ["", "learning rate", "what it is"], rows

    def to_dict(self) -> dict[str, Any]:
        """Converts the result to JSON types; numbers that are not finite become ``None``."""
        values: dict[str, Any] = to_json(asdict(self))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LearningRateResult:
        """Builds a result from what ``to_dict`` returned; unknown entries are left out.

        Args:
            values: The names and values of the fields, in JSON types.

        Returns:
            The result.

        Raises:
            TypeError: If ``values`` or an entry is of the wrong type.
            ValueError: If an entry is missing or out of its range.

        """
        known = from_json(cls, values)
        for name in ("losses", "smoothed", "zoom_losses", "zoom_smoothed", "trained_losses", "checked_losses"):
            if name in known:
                known[name] = none_to_nan(known[name])
        if known.get("signal", 0.0) is None:
            known["signal"] = math.inf
        return cls(**known)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LearningRateResult):
            return NotImplemented
        return self.to_dict() == other.to_dict()  # NaN, which is not equal to itself, is None there

    def __hash__(self) -> int:
        return hash((self.lrs, self.suggestion, self.rule, self.lr_before, self.lr_used))

    def __str__(self) -> str:
        if self.suggestion is None:
            lines = [f"No learning rate suggested. {self.reason}"]
        else:
            lines = [f"Suggested learning rate {self.suggestion:.3g}: {self.why}"]
        if self.note is not None:
            lines.append(f"  {self.note}")
        lines.append(f"  before {self.lr_before:.3g}, used {self.lr_used:.3g}")
        lines.append("  " + " | ".join(f"{name} {_format_rate(lr)}" for name, lr in self.rules.items()))
        repeats = f" of {len(self.losses)} sweeps" if len(self.losses) > 1 else ""
        training = "" if self.planned_steps is None else f" (the training: {self.planned_steps} steps)"
        lines.append(
            f"  {self.num_steps} steps{repeats} in {self.seconds:.1f} s{training}, from {self.lrs[0]:.3g} to"
            f" {self.lrs[-1]:.3g}; the fall is {self.signal:.{0 if self.signal > 10 else 1}f} times the noise"
        )
        return "\n".join(lines)


def _read(suggestion: LRSuggestion, rule: str, *, is_named: bool = False) -> dict[str, Any]:
    """The fields that are read from a curve; without a suggestion if the curve is refused or the rule finds nothing."""
    check_choice("rule", rule, suggestion.rules)
    reason, note, found = suggestion.reason, suggestion.note, suggestion.rules[rule]
    if reason is not None and is_named and found is not None:
        reason, note = None, f"The rule {rule!r} was asked for; the curve itself supports no rate. {reason}"
    if reason is not None:
        found = None
    if found is None and reason is None:
        reason = f"The rule {rule!r} finds nothing on this curve."
    return {
        "suggestion": found,
        "interval": suggestion.interval,
        "rules": suggestion.rules,
        "rule": rule,
        "reason": reason,
        "note": note,
        "edge": suggestion.edge,
        "per_repeat": suggestion.per_repeat,
        "signal": suggestion.signal,
    }


def _check_reading(suggestion: Any) -> None:
    what = "an LRSuggestion of suggest_lr"
    check_instance("suggestion", suggestion, LRSuggestion, what)
    if not suggestion.rules:
        wrong_value("suggestion", f"{what}, with all its rules", suggestion)


def _check_rules(rules: Any) -> dict[str, float | None]:
    what = "a dict of rule names and learning rates"
    if not isinstance(rules, Mapping):
        wrong_type("rules", what, rules)
    if not rules:
        wrong_value("rules", what, rules)
    return {check_str("rules", name, what=what): _optional_rate("rules", lr) for name, lr in rules.items()}


def _check_interval(interval: Any) -> tuple[float, float] | None:
    if interval is None:
        return None
    what = "two learning rates, the lower one first"
    rates = [check_number("interval", lr, above=0) for lr in check_iterable("interval", interval, what, also="None")]
    if len(rates) != 2 or rates[0] > rates[1]:
        wrong_value("interval", f"{what}, or None", interval)
    return rates[0], rates[1]


def _optional_rate(name: str, lr: Any) -> float | None:
    return optional(check_number, name, lr, above=0)


def _count_steps(sweeps: tuple[tuple[float, ...], ...]) -> int:
    """Steps up to the last finite loss, summed over all repeats."""
    return sum(max((i + 1 for i, loss in enumerate(sweep) if math.isfinite(loss)), default=0) for sweep in sweeps)


def _format_rate(lr: float | None) -> str:
    return "-" if lr is None else f"{lr:.3g}"
