"""The result of a learning-rate range test, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lightning_hp.functional.learning_rate.suggestion import LRSuggestion

#: What each rule looks for, in a few words.
RULES: Mapping[str, str] = {
    "fall": "two thirds of the fall",
    "one_cycle": "peak for a one-cycle schedule",
    "half": "half-way down",
    "steepest": "steepest descent",
    "valley": "longest valley",
    "slide": "interval slide",
    "minimum": "minimum / 10",
}

_READ_FROM_THE_PART = ("fall", "one_cycle", "half")


@dataclass(frozen=True)
class LRFindResult:
    """What a range test found.

    Four learning rates are kept apart: what each rule *found* (`rules`), the one *suggested* (`suggestion`), the one
    the model had *before* and the one that is *used* now.

    Attributes:
        lrs: Learning rates of the sweep, rising.
        losses: One tuple for each repeat with one loss for each rate, NaN where the sweep did not arrive.
        smoothed: The smooth median loss at each rate, NaN where it is not known.
        suggestion: The suggested learning rate by `rule`, or ``None``.
        interval: The rates at 50 % and 80 % of the fall, or ``None``.
        rules: The rate by every rule; ``None`` where a rule finds nothing.
        rule: Name of the rule that was asked for.
        lr_before: The learning rate that the model came with.
        lr_used: The learning rate that it trains with.
        reason: Why there is no suggestion, in one sentence, or ``None``.
        note: What to know about the suggestion, in one sentence, or ``None``.
        edge: The rate above which the loss explodes, or ``None`` if the sweep did not get there.
        per_repeat: What each repeat alone would have suggested by the rule ``fall``.
        signal: Depth of the fall in standard deviations of one loss.
        num_steps: Training steps that were rehearsed.
        seconds: How long that took.
        zoom_lrs: Learning rates of a second sweep over the falling part; empty if there was none.
        zoom_losses: Its losses, as `losses`.
        zoom_smoothed: Its smooth losses, as `smoothed`.

    Costs nothing. Does not hold the model or the Trainer: it can be pickled, copied and kept.

    Source: Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017 (the range test).

    Example:
        >>> from lightning_hp.functional import lr_range, suggest_lr
        >>> lrs = lr_range(1e-6, 10, 99)
        >>> losses = 2.3 - 2 / (1 + 1e-3 / lrs) + (lrs / 0.3) ** 4
        >>> result = LRFindResult.from_sweep(lrs, losses, suggest_lr(lrs, losses), lr_before=0.1, seconds=1.5)
        >>> print(result.used(result.suggestion))
        Learning rate 0.00193: two thirds of the fall; 0.000945 to 0.00382 is a fair choice
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

    @classmethod
    def from_sweep(
        cls,
        lrs: ArrayLike,
        losses: ArrayLike,
        suggestion: LRSuggestion,
        *,
        lr_before: float,
        rule: str = "fall",
        seconds: float = 0.0,
    ) -> LRFindResult:
        """Builds the result of a sweep that was not applied yet: `lr_used` is `lr_before`.

        Args:
            lrs: Learning rates, shape (steps,).
            losses: Losses, shape (steps,) or (repeats, steps), not finite where a sweep did not arrive.
            suggestion: What :func:`~lightning_hp.functional.suggest_lr` read from them.
            lr_before: The learning rate that the model came with.
            rule: Name of the rule that gives the suggestion. Where the curve supports none, no rule gives one.
            seconds: How long the sweep took.

        Returns:
            The result.

        Raises:
            ValueError: If there is no rule of that name.

        """
        result = cls(
            lrs=_row(lrs),
            losses=_rows(losses),
            smoothed=_row(suggestion.smoothed),
            suggestion=None,
            interval=None,
            rules={},
            rule=rule,
            lr_before=float(lr_before),
            lr_used=float(lr_before),
            num_steps=_num_steps(losses),
            seconds=float(seconds),
        )
        return _with_reading(result, suggestion)

    def zoomed(self, lrs: ArrayLike, losses: ArrayLike, suggestion: LRSuggestion, seconds: float = 0.0) -> LRFindResult:
        """The result after a second sweep over the falling part, which has the say unless it shows too little.

        The rules of other tools keep what they read from the whole sweep, which is what they are made for.

        Args:
            lrs: Learning rates of the second sweep, shape (steps,).
            losses: Its losses, shape (steps,) or (repeats, steps).
            suggestion: What was read from them.
            seconds: How long the second sweep took.

        Returns:
            A new result, with the steps and the seconds of both.

        """
        result = replace(
            self,
            zoom_lrs=_row(lrs),
            zoom_losses=_rows(losses),
            zoom_smoothed=_row(suggestion.smoothed),
            num_steps=self.num_steps + _num_steps(losses),
            seconds=self.seconds + float(seconds),
        )
        if suggestion.lr is None:
            return result
        rules = {**self.rules, **{name: suggestion.rules[name] for name in _READ_FROM_THE_PART}}
        if self.edge is not None and suggestion.edge is None:  # the part ends where the whole sweep saw the edge
            suggestion = replace(suggestion, edge=self.edge, note=self.note)
        return _with_reading(result, replace(suggestion, rules=rules))

    def used(self, lr: float) -> LRFindResult:
        """The same result, with ``lr`` as the learning rate that is used from now on."""
        return replace(self, lr_used=float(lr))

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows for a logger: what was suggested, before and used, and what every rule says."""
        rows: list[list[Any]] = [
            ["suggested", self.suggestion, self.reason or RULES.get(self.rule, self.rule)],
            ["before", self.lr_before, "what the model came with"],
            ["used", self.lr_used, "what it trains with"],
        ]
        rows += [[name, lr, RULES.get(name, name)] for name, lr in self.rules.items()]
        if self.edge is not None:
            rows.append(["edge", self.edge, "a quarter of the fall is lost again"])
        return ["", "learning rate", "what it is"], rows

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings that JSON can hold; ``None`` where a number is not finite."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LRFindResult:
        """The result again, from what :meth:`to_dict` gave; unknown entries are left out."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        for name in ("lrs", "smoothed", "zoom_lrs", "zoom_smoothed"):
            known[name] = _row(known.get(name, ()))
        for name in ("losses", "zoom_losses"):
            known[name] = tuple(_row(row) for row in known.get(name, ()))
        known["interval"] = None if known["interval"] is None else tuple(known["interval"])
        known["per_repeat"] = tuple(known.get("per_repeat", ()))
        known["signal"] = math.inf if known.get("signal", 0.0) is None else known.get("signal", 0.0)
        return cls(**known)

    def __str__(self) -> str:
        if self.suggestion is None:
            lines = [f"No learning rate suggested. {self.reason}"]
        else:
            fair = (
                ""
                if self.interval is None or self.rule != "fall"
                else "; {:.3g} to {:.3g} is a fair choice".format(*self.interval)
            )
            lines = [f"Learning rate {self.suggestion:.3g}: {RULES.get(self.rule, self.rule)}{fair}"]
        if self.note is not None:
            lines.append(f"  {self.note}")
        lines.append(f"  before {self.lr_before:.3g}, used {self.lr_used:.3g}")
        lines.append("  " + " | ".join(f"{name} {_short(lr)}" for name, lr in self.rules.items()))
        repeats = f" of {len(self.losses)} sweeps" if len(self.losses) > 1 else ""
        lines.append(
            f"  {self.num_steps} steps{repeats} in {self.seconds:.1f} s, from {self.lrs[0]:.3g} to {self.lrs[-1]:.3g}"
            f"; the fall is {self.signal:.{0 if self.signal > 10 else 1}f} times the noise"
        )
        return "\n".join(lines)


def _with_reading(result: LRFindResult, suggestion: LRSuggestion) -> LRFindResult:
    """The result with what was read from a curve; where the curve supports no rate, no rule gives one."""
    if result.rule not in suggestion.rules:
        raise ValueError(f"Expected `rule` to be one of {', '.join(suggestion.rules)}, but got {result.rule!r}.")
    found = suggestion.rules[result.rule] if suggestion.reason is None else None
    reason = suggestion.reason
    if found is None and reason is None:
        reason = f"The rule {result.rule!r} finds nothing on this curve."
    return replace(
        result,
        suggestion=found,
        interval=suggestion.interval,
        rules=dict(suggestion.rules),
        reason=reason,
        note=suggestion.note,
        edge=suggestion.edge,
        per_repeat=suggestion.per_repeat,
        signal=float(suggestion.signal),
    )


def _row(values: Any) -> tuple[float, ...]:
    return tuple(math.nan if value is None else float(value) for value in values)


def _rows(losses: ArrayLike) -> tuple[tuple[float, ...], ...]:
    sweeps = np.atleast_2d(np.asarray(losses, dtype=np.float64))
    return tuple(_row(sweep) for sweep in np.where(np.isfinite(sweeps), sweeps, np.nan))


def _num_steps(losses: ArrayLike) -> int:
    """Steps up to the last one with a finite loss, over all repeats."""
    sweeps: Sequence[Any] = np.atleast_2d(np.isfinite(np.asarray(losses, dtype=np.float64))).tolist()
    return sum(max((i + 1 for i, reached in enumerate(sweep) if reached), default=0) for sweep in sweeps)


def _short(lr: float | None) -> str:
    return "-" if lr is None else f"{lr:.3g}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
