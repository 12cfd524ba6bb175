"""A learning rate that follows the batch size of the settings, by the scaling rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from lightning_hp.functional.checks import check_choice, is_number, wrong_value
from lightning_hp.functional.learning_rate.scaling import ScalingRule, scale_lr
from lightning_hp.sweeping.space import Settings, Space

_RATES, _SIZES = ("lr", "learning_rate"), ("batch_size",)


@dataclass(frozen=True)
class ScaledRate:
    """Gives settings the learning rate for their batch size. The settings state the rate for the base batch size.

    Attributes:
        rule: ``"linear"`` or ``"sqrt"``.
        rate: The name of the learning rate.
        size: The name of the batch size.
        base: The batch size that the stated rates are for.

    """

    rule: ScalingRule
    rate: str
    size: str
    base: int

    def __call__(self, settings: Mapping[str, Any]) -> Settings:
        """The settings to train with."""
        return {**settings, **self.used(settings)}

    def used(self, settings: Mapping[str, Any]) -> Settings:
        """The learning rate to train with, by its name."""
        lr = scale_lr(settings[self.rate], settings[self.size], self.base, self.rule)
        return {self.rate: float(f"{lr:.6g}")}


def scaled_rate(rule: Any, space: Space) -> ScaledRate | None:
    """The rate of a space that follows its batch size.

    Args:
        rule: ``"linear"``, ``"sqrt"``, or ``None`` for a rate that follows nothing.
        space: The subjects. The base batch size is that of their start.

    Raises:
        TypeError: If ``rule`` is neither a text nor ``None``.
        ValueError: If there is no such rule; or the space does not have one learning rate and one batch size in two
            subjects, whose values are numbers above 0, and whole numbers.

    """
    if rule is None:
        return None
    check_choice("scale_lr", rule, get_args(ScalingRule), also="None")
    rate, size = _one(_RATES, space), _one(_SIZES, space)
    for subject in space.subjects:
        if rate in subject.names and size in subject.names:
            raise ValueError(
                f"Expected {rate!r} and {size!r} in two subjects of `space` with `scale_lr`, but they are coupled,"
                " which states the rate for each batch size already."
            )
    for value in (space.start[rate], *_values(rate, space)):
        if not is_number(value) or value <= 0:
            wrong_value(f"space[{rate!r}]", "numbers above 0 with `scale_lr`", value)
    for value in (space.start[size], *_values(size, space)):
        if type(value) is not int or value < 1:
            wrong_value(f"space[{size!r}]", "whole numbers above 0 with `scale_lr`", value)
    return ScaledRate(rule, rate, size, space.start[size])


def _one(words: tuple[str, ...], space: Space) -> str:
    """The name of a space whose last part is one of some words, as in ``"data.init_args.batch_size"``."""
    names = [name for name in space.names if name.rpartition(".")[2] in words]
    if len(names) != 1:
        raise ValueError(
            f"Expected one name in `space` that is {' or '.join(map(repr, words))} with `scale_lr`, got"
            f" {', '.join(map(repr, names)) or 'none'}."
        )
    return names[0]


def _values(name: str, space: Space) -> list[Any]:
    subject = next(subject for subject in space.subjects if name in subject.names)
    return [row[subject.names.index(name)] for row in subject.values]
