"""Runs the schedulers of a training on copies, as ``fit`` will step them, and reads what they give each group.

A *tick* is one optimizer step, or one epoch if every scheduler is stepped once per epoch. Of a long schedule whose
moments do not depend on each other 2000 ticks are computed, and those around the highest one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import LRScheduler, SequentialLR

from lightning_hp.hyperparameters.learning_rate.home import Home
from lightning_hp.hyperparameters.learning_rate.numbers import ConfiguredOptimizers, momentum_of
from lightning_hp.hyperparameters.learning_rate.rescale import is_absolute_lr
from lightning_hp.trainer import building_without_effects, lightning_module_of, no_op, simulated_progress

if TYPE_CHECKING:
    import pytorch_lightning as pl

Array = npt.NDArray[np.float64]

# Points of a schedule that is sampled instead of stepped.
_NUM_SAMPLES = 2000

# Steps of a scheduler that has to be stepped: at most `_MAX_STEPS`, and fewer with many groups.
_MAX_STEPS, _MAX_GROUP_STEPS = 10_000, 50_000

# Rates that differ by less than this share are equal.
_ROUNDING = 1e-9

# What a scheduler raises at the end of a schedule of a fixed length.
_ENDS = (ArithmeticError, LookupError, RuntimeError, ValueError)

# `scheduler.step(position)` sets the rate of any moment for these, without the moments before it.
_WITH_POSITION = frozenset(
    {
        torch_schedulers.ConstantLR,
        torch_schedulers.CosineAnnealingLR,
        torch_schedulers.CosineAnnealingWarmRestarts,
        torch_schedulers.CyclicLR,
        torch_schedulers.ExponentialLR,
        torch_schedulers.LambdaLR,
        torch_schedulers.LinearLR,
        torch_schedulers.MultiStepLR,
        torch_schedulers.OneCycleLR,
        torch_schedulers.PolynomialLR,
        torch_schedulers.StepLR,
    }
)


def rates_of_one(
    trainer: pl.Trainer, pl_module: pl.LightningModule, position: int, num_steps: int, steps_per_epoch: int
) -> Array | None:
    """The rates that one scheduler gives over a training, while the others stand still; nothing is changed.

    Args:
        trainer: A Trainer inside ``fit`` whose loaders exist.
        pl_module: Its module.
        position: Which of the schedulers.
        num_steps: Optimizer steps from the start of the schedule.
        steps_per_epoch: Optimizer steps of an epoch.

    Returns:
        Rates at equidistant moments, divided by those that the groups are built on, shape (points, groups); floors in
        absolute terms are taken for zero. ``None`` if the scheduler cannot be stepped.

    Note:
        Runs ``configure_optimizers`` once.

    """
    plan = Plan(trainer, pl_module, num_steps, steps_per_epoch, only=position)
    factors = simulate(plan, None, 1.0)
    return None if factors is None else factors.points


def first_decay(
    trainer: pl.Trainer, pl_module: pl.LightningModule, num_steps: int, steps_per_epoch: int, steps_done: int = 0
) -> int | None:
    """The first optimizer step in which the rate of a group is below its highest before; nothing is changed.

    Args:
        trainer: A Trainer inside ``fit`` whose loaders exist.
        pl_module: Its module.
        num_steps: Optimizer steps that are still to come.
        steps_per_epoch: Optimizer steps of an epoch.
        steps_done: Optimizer steps since the schedulers were built.

    Returns:
        Number of steps from the start of the schedule to that step, >= 1; ``None`` if no rate decays.

    Note:
        Runs ``configure_optimizers`` once, and steps its schedulers up to the decay. A difference of 1e-9 of the rate
        is rounding.

    """
    plan = Plan(trainer, pl_module, num_steps, steps_per_epoch, steps_done)
    with building_without_effects(trainer, pl_module) as build, simulated_progress(trainer) as set_progress:
        configured = ConfiguredOptimizers(*build())
        if len(configured.schedulers) != len(plan.configs):
            return None
        groups = [group for _, group in configured.groups()]
        highest = np.array([float(group["lr"]) for group in groups])
        for tick in range(1, plan.num_ticks):
            try:
                plan.advance(configured.schedulers, tick - 1, set_progress)
            except _ENDS:  # the end of a schedule of a fixed length
                return None
            rates = np.array([float(group["lr"]) for group in groups])
            if (rates < highest * (1 - _ROUNDING)).any():
                return tick * plan.steps_per_tick
            highest = np.maximum(highest, rates)
    return None


class Plan:
    """When ``fit`` steps the schedulers.

    Its unit is a *tick*: one optimizer step, or one epoch if every scheduler is stepped once per epoch.
    """

    def __init__(
        self,
        trainer: Any,
        pl_module: pl.LightningModule,
        num_steps: int,
        steps_per_epoch: int,
        steps_done: int = 0,
        only: int | None = None,
    ) -> None:
        self.trainer = trainer
        self.module = pl_module
        self.configs = list(trainer.strategy.lr_scheduler_configs)
        self._positions = range(len(self.configs)) if only is None else (only,)
        self._steps_per_epoch = max(1, steps_per_epoch)
        # `current_epoch` goes on in a second `fit`, whose schedulers start again.
        self._first_step = max(0, trainer.global_step - steps_done)
        self._first_epoch = max(0, trainer.current_epoch - round(steps_done / self._steps_per_epoch))
        stepped = self._with_schedulers(self.configs)
        per_step = any(config.interval == "step" for config, _ in stepped)
        self.steps_per_tick = 1 if per_step else self._steps_per_epoch
        self.num_ticks = max(1, math.ceil((steps_done + num_steps) / self.steps_per_tick))
        self._ticks_done = steps_done // self.steps_per_tick
        self.first_row = self._ticks_done

    def sample(self, num_rows: int) -> list[int]:
        """Equidistant ticks; `first_row` then counts these."""
        self.first_row = self._ticks_done * num_rows // self.num_ticks
        return [row * self.num_ticks // num_rows for row in range(num_rows)]

    def has_position(self, schedulers: Sequence[Any]) -> bool:
        """Whether :meth:`jump` gives the rates of any tick."""
        stepped = self._with_schedulers(schedulers)
        optimizers = {id(getattr(scheduler, "optimizer", None)) for _, scheduler in stepped}
        if len(optimizers) < len(stepped):  # the rate depends on what both did before
            return False
        intervals = {config.interval for config, _ in stepped}
        if len(intervals) > 1 or any(config.frequency != 1 for config, _ in stepped):
            return False
        is_overridden = lightning_module_of(self.trainer, "utilities.model_helpers").is_overridden
        if not is_overridden("lr_scheduler_step", self.module):
            return all(_has_position(scheduler) for _, scheduler in stepped)
        # timm's schedulers are given the position by the module; they have no state.
        return all(type(scheduler).__module__.startswith("timm.") for _, scheduler in stepped)

    def jump(self, schedulers: Sequence[Any], tick: int, set_progress: Callable[[int, int], None]) -> None:
        """Sets the rates after `tick` ticks, >= 1."""
        for _, scheduler in self._with_schedulers(schedulers):
            if isinstance(scheduler, LRScheduler):
                _step_to(scheduler, tick)
            else:
                self._step(scheduler, tick * self.steps_per_tick, set_progress)

    def advance(self, schedulers: Sequence[Any], tick: int, set_progress: Callable[[int, int], None]) -> None:
        """Steps the schedulers at the end of tick number `tick`."""
        done = (tick + 1) * self.steps_per_tick
        epoch, position = divmod(done - 1, self._steps_per_epoch)
        batches = (position + 1) * self.trainer.accumulate_grad_batches
        is_last = position == self._steps_per_epoch - 1
        for interval, number in [("step", batches)] + [("epoch", self._first_epoch + epoch + 1)] * is_last:
            for config, scheduler in self._with_schedulers(schedulers):
                if config.interval == interval and number % config.frequency == 0:
                    self._step(scheduler, done, set_progress)

    def _with_schedulers(self, schedulers: Sequence[Any]) -> list[tuple[Any, Any]]:
        pairs = list(zip(self.configs, schedulers, strict=True))
        return [pairs[i] for i in self._positions if not pairs[i][0].reduce_on_plateau]

    def _step(self, scheduler: Any, steps: int, set_progress: Callable[[int, int], None]) -> None:
        set_progress(self._first_step + steps, self._first_epoch + (steps - 1) // self._steps_per_epoch)
        self.module.lr_scheduler_step(scheduler, None)


@dataclass(frozen=True)
class Factors:
    """Rates divided by the rates that the groups are built on, and momenta.

    Args:
        points: The rates at equidistant ticks; shape (points, groups).
        momenta: The momentum, or Adam's first beta, at the same ticks; NaN for a group without.
        around_peak: The rates at the ticks around the highest point of each group; missing if all ticks are in
            `points`.

    """

    points: Array
    momenta: Array
    around_peak: dict[int, Array]

    @property
    def has_changing_momenta(self) -> bool:
        """Whether a scheduler changes a momentum."""
        return not np.array_equal(self.momenta, np.broadcast_to(self.momenta[:1], self.momenta.shape), equal_nan=True)

    def peak_of(self, group: int) -> tuple[int, float]:
        """The row of a group's highest point, and its factor there."""
        return int(self.points[:, group].argmax()), float(self.at_peak(group)[group])

    def at_peak(self, group: int) -> Array:
        """The factors of all groups where that of `group` is highest."""
        rows = self.around_peak.get(group, self.points)
        row: Array = rows[int(rows[:, group].argmax())]
        return row


def simulate(plan: Plan, home: Home | None, value: float) -> Factors | None:
    """Builds the schedule on a value and runs through it; ``None`` if it cannot be stepped."""
    with (
        _writing(home, value) as write,
        building_without_effects(plan.trainer, plan.module) as build,
        simulated_progress(plan.trainer) as set_progress,
    ):
        try:
            factors = _run(plan, lambda: _copy(build(write)), set_progress)
        except Exception:  # noqa: BLE001 - whatever the user's code raises where it is stepped without a training
            return None
    return factors if factors is not None and bool(np.isfinite(factors.points).all()) else None


def _run(
    plan: Plan, build: Callable[[], ConfiguredOptimizers], set_progress: Callable[[int, int], None]
) -> Factors | None:
    configured = build()
    if len(configured.schedulers) != len(plan.configs):
        return None
    groups = [group for _, group in configured.groups()]
    bases = np.array(list(configured.base_lrs().values()))
    bases[bases <= 0] = math.inf  # such a group stays at zero

    def read() -> Array:
        """The factors of the groups and their momenta, shape (2, groups)."""
        rates = np.array([float(group["lr"]) for group in groups])
        return np.stack([rates / bases, [momentum_of(group) for group in groups]])

    first = read()
    if plan.num_ticks > _NUM_SAMPLES and plan.has_position(configured.schedulers):

        def look(ticks: Sequence[int]) -> Array:
            rows: list[Array] = []
            for tick in ticks:
                if tick:
                    try:
                        plan.jump(configured.schedulers, tick, set_progress)
                    except _ENDS:  # the end of a schedule of a fixed length
                        rows += [rows[-1]] * (len(ticks) - len(rows))
                        break
                rows.append(read() if tick else first)
            return np.array(rows)

        ticks = plan.sample(_NUM_SAMPLES)
        sampled = look(ticks)
        around: dict[int, Array] = {}
        by_row: dict[int, Array] = {}
        for group, row in enumerate(sampled[:, 0].argmax(axis=0).tolist()):
            if row not in by_row:
                end = ticks[row + 1] if row + 1 < len(ticks) else plan.num_ticks
                by_row[row] = look(range(ticks[max(0, row - 1)], end))[:, 0]
            around[group] = by_row[row]
        return Factors(sampled[:, 0], sampled[:, 1], around)

    rows = [first]
    num_ticks = min(plan.num_ticks, max(_NUM_SAMPLES, min(_MAX_STEPS, _MAX_GROUP_STEPS // len(groups))))
    for tick in range(num_ticks - 1):
        try:
            plan.advance(configured.schedulers, tick, set_progress)
        except _ENDS:  # the end of a schedule of a fixed length
            break
        rows.append(read())
    stepped, momenta = np.array(rows).transpose(1, 0, 2)
    if len(rows) == plan.num_ticks:
        return Factors(stepped, momenta, {})
    if len(rows) == num_ticks and (stepped.argmax(axis=0) > 0.95 * num_ticks).any():
        return None  # it may climb further
    ticks = plan.sample(min(_NUM_SAMPLES, plan.num_ticks))
    kept = np.minimum(ticks, len(stepped) - 1)
    return Factors(stepped[kept], momenta[kept], dict.fromkeys(range(len(groups)), stepped))


def _copy(built: Any) -> ConfiguredOptimizers:
    """What was built, without floors and targets in absolute terms."""
    configured = ConfiguredOptimizers(*built)
    for scheduler in configured.schedulers:
        if (
            vars(scheduler).get("step") is no_op
        ):  # a module may return the same scheduler again, which a rehearsal muted
            del vars(scheduler)["step"]
    for number in configured.numbers():
        if is_absolute_lr(number) and number.name != "eps":
            number.write(0.0)
    return configured


@contextmanager
def _writing(home: Home | None, value: float) -> Iterator[Callable[[], None]]:
    """Gives a function that writes the home, which is restored at the end."""
    places = () if home is None else home.attribute.places
    original = [place.read() for place in places]

    def write() -> None:
        for place in places:
            place.write(value)

    try:
        yield write
    finally:
        for place, held in zip(places, original, strict=True):
            place.write(held)


def _has_position(scheduler: Any) -> bool:
    if type(scheduler) is SequentialLR:
        return all(map(_has_position, scheduler._schedulers))
    return type(scheduler) in _WITH_POSITION


def _step_to(scheduler: Any, position: int) -> None:
    """Sets the rates that the scheduler gives after `position` steps."""
    if type(scheduler) is SequentialLR:
        number = bisect_right(scheduler._milestones, position)
        _step_to(scheduler._schedulers[number], position - (scheduler._milestones[number - 1] if number else 0))
    else:
        scheduler.step(position)
