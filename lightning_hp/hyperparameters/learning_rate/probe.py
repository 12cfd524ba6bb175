"""Which learning rates follow a number of the user's module: ask ``configure_optimizers`` itself.

That an attribute is called ``lr`` does not make it the learning rate. So ``configure_optimizers`` is run twice more,
with two values of the attribute. What changed in proportion follows it, what stayed is the user's own choice, and
what did something else is refused. What these runs built is thrown away, and what they touched is put back.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from lightning_hp.hyperparameters.attributes import NamedAttribute
from lightning_hp.hyperparameters.learning_rate.numbers import Configured, Key, Slot
from lightning_hp.hyperparameters.learning_rate.rebase import (
    is_absolute,
    is_rate,
    is_same_trajectory,
    scale,
    trajectory,
)
from lightning_hp.snapshot import RandomStreams, Snapshot
from lightning_hp.trainer import lightning_module_of

if TYPE_CHECKING:
    import pytorch_lightning as pl

# How far a schedule is followed on the side: far enough into it to be in the middle of something, and on from there.
_STEPS_BEFORE, _STEPS_AFTER = 50, 200

_Name = TypeVar("_Name")


@dataclass(frozen=True)
class Probe:
    """How what ``configure_optimizers`` builds depends on one attribute.

    Args:
        ratios: For each group that follows, its base rate as a multiple of the attribute.
        fixed: The groups that do not depend on it.
        odd: For each group that does something else, its base rates at the two values.
        carried: For each number by its path, whether it follows; absent where that cannot be seen (it was zero).
        scalable: Whether multiplying what follows, midway, gives the very schedule that the other value leads to.
        repeatable: Whether ``configure_optimizers`` may run again: it leaves no hooks on parameters, which would then
            act twice.

    """

    ratios: dict[Key, float]
    fixed: frozenset[Key]
    odd: dict[Key, tuple[float, float]]
    carried: dict[tuple[str | int, ...], bool]
    scalable: bool
    repeatable: bool


def probe(
    trainer: pl.Trainer, pl_module: pl.LightningModule, attribute: NamedAttribute, at: float, try_scaling: bool
) -> Probe:
    """Runs ``configure_optimizers`` at two values of an attribute and compares what it builds.

    Args:
        trainer: A Trainer inside ``fit``.
        pl_module: Its module.
        attribute: The attribute; left as it was.
        at: Its first value, > 0; the second is half of it.
        try_scaling: Also find out about ``scalable``, by stepping the schedulers, which is else done only where
            ``configure_optimizers`` is not repeatable.

    """
    other = at / 2
    held = [place.read() for place in attribute.places]

    def write(value: float) -> None:
        for place in attribute.places:
            place.write(value)

    with _untouched(trainer, pl_module) as build:
        try:
            num_hooks = len(_hooks(pl_module))
            first = build(lambda: write(at))
            repeatable = len(_hooks(pl_module)) == num_hooks
            bases, numbers = first.base_rates(), {slot.path: slot.read() for slot in first.slots()}
            second = build(lambda: write(other))
            new_bases, new_numbers = second.base_rates(), {slot.path: slot.read() for slot in second.slots()}
            verdicts = _compare(bases, new_bases, at, other)
            carried = {
                path: follows
                for path, follows in _compare(numbers, new_numbers, at, other).items()
                if follows is not None and numbers[path] != 0
            }
            ratios = {key: bases[key] / at for key, follows in verdicts.items() if follows}
            scalable = False
            if ratios and (try_scaling or not repeatable):
                moved = build(lambda: write(at))
                trajectory(moved, _STEPS_BEFORE)
                scale(moved, lambda slot: carried.get(slot.path, is_rate(moved, slot)), _half, bases)
                rates = trajectory(moved, _STEPS_AFTER)
                typed = build(lambda: write(other))
                trajectory(typed, _STEPS_BEFORE)
                scalable = is_same_trajectory(rates, trajectory(typed, _STEPS_AFTER))
        finally:
            for place, value in zip(attribute.places, held, strict=True):
                place.write(value)
    return Probe(
        ratios=ratios,
        fixed=frozenset(key for key, follows in verdicts.items() if follows is False),
        odd={key: (bases[key], new_bases.get(key, math.nan)) for key, follows in verdicts.items() if follows is None},
        carried=carried,
        scalable=scalable,
        repeatable=repeatable,
    )


def is_repeatable(trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
    """Whether ``configure_optimizers`` may run again: it leaves no hooks on parameters, which would then act twice."""
    num_hooks = len(_hooks(pl_module))
    with _untouched(trainer, pl_module) as build:
        build()
        return len(_hooks(pl_module)) == num_hooks


def is_scalable(trainer: pl.Trainer, pl_module: pl.LightningModule, midway: bool) -> bool:
    """Whether multiplying the known rates of a schedule is the same as typing another rate, tried on copies.

    From the start it is, if nothing else sets the rates: with floors and targets halved too, all rates are halved.
    Midway it is, if it makes no difference whether the known rates are halved then or at the start.

    Args:
        trainer: A Trainer inside ``fit``.
        pl_module: Its module.
        midway: Whether the training has begun.

    """
    with _untouched(trainer, pl_module) as build:
        whole = trajectory(build(), _STEPS_AFTER)
        if not is_same_trajectory(whole, trajectory(_halved(build(), absolute=True), _STEPS_AFTER), 0.5):
            return False
        if not midway:
            return True
        early = _halved(build(), absolute=False)
        trajectory(early, _STEPS_BEFORE)
        rates = trajectory(early, _STEPS_AFTER)
        late = build()
        trajectory(late, _STEPS_BEFORE)
        return is_same_trajectory(rates, trajectory(_halved(late, absolute=False), _STEPS_AFTER))


def _halved(configured: Configured, absolute: bool) -> Configured:
    def follows(slot: Slot) -> bool:
        return is_rate(configured, slot) or (absolute and is_absolute(slot))

    scale(configured, follows, _half, configured.base_rates())
    return configured


def _half(rate: float) -> float:
    return rate / 2


def _compare(
    values: Mapping[_Name, float], changed: Mapping[_Name, float], at: float, other: float
) -> dict[_Name, bool | None]:
    """Whether each number went with the attribute from ``at`` to ``other``; ``None`` if it did something else."""
    verdicts: dict[_Name, bool | None] = {}
    for name, value in values.items():
        new = changed.get(name, math.nan)
        if value == new or math.isclose(value, new, rel_tol=1e-9):
            verdicts[name] = False
        else:
            verdicts[name] = True if math.isclose(value / at, new / other, rel_tol=1e-6) else None
    return verdicts


class _Build(Protocol):
    def __call__(self, prepare: Callable[[], None] = ...) -> Configured: ...


@contextmanager
def _untouched(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[_Build]:
    """Lets ``configure_optimizers`` run on the side, each time from the same state; all is put back in the end.

    What an earlier run built is not to be looked at after a later one: they may share tensors, or be the same object.
    """
    strategy = trainer.strategy
    streams = RandomStreams(strategy.root_device)
    # The optimizers too: a module may build its own once, in `__init__`, and give a scheduler to it in each call.
    state = Snapshot(pl_module, *strategy.optimizers, *(config.scheduler for config in strategy.lr_scheduler_configs))
    known = {number for _, number in _hooks(pl_module)}  # torch gives each hook a number of its own
    core = lightning_module_of(trainer, "core.optimizer")

    def restore() -> None:
        state.restore()
        streams.restore()
        for owner, number in _hooks(pl_module):
            if number not in known:
                del owner[number]

    def build(prepare: Callable[[], None] = lambda: None) -> Configured:
        restore()
        prepare()
        optimizers, configs = core._init_optimizers_and_lr_schedulers(pl_module)
        return Configured(optimizers, [config.scheduler for config in configs])

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `fit` has said it already
            yield build
    finally:
        restore()


def _hooks(pl_module: pl.LightningModule) -> list[tuple[dict[int, Any], int]]:
    """The hooks on parameters, as the dicts that hold them and the keys there."""
    held = [hooks for p in pl_module.parameters() for hooks in (p._backward_hooks, p._post_accumulate_grad_hooks)]
    return [(hooks, number) for hooks in held if hooks is not None for number in hooks]
