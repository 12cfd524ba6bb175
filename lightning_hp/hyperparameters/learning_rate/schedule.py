"""The shape of a learning-rate schedule over the planned training, from a simulation on copies.

The rate that a schedule is built on is not always its highest. A ``LambdaLR`` may climb to ten times the rate, or turn
a rate of 1 into 1e-3; it may hold another factor for each group, and timm's schedulers multiply by the ``lr_scale`` of
a group. So ``configure_optimizers`` runs once more, and the schedulers are stepped as ``fit`` will step them:

    for each optimizer step of the plan:
        record the rate of every group, divided by the rate that it is built on
        step the schedulers whose interval and frequency have come
    reference = group whose factor gets highest, among those that are built on the learning rate itself
    peak      = highest factor of the reference
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

from lightning_hp.hyperparameters.learning_rate.home import PLACEHOLDER_LR, Home
from lightning_hp.hyperparameters.learning_rate.numbers import ConfiguredOptimizers, GroupIndex
from lightning_hp.hyperparameters.learning_rate.rebuild import current_optimizers
from lightning_hp.hyperparameters.learning_rate.rescale import is_absolute_lr
from lightning_hp.trainer import (
    building_without_effects,
    lightning_module_of,
    no_op,
    simulated_progress,
)

if TYPE_CHECKING:
    import pytorch_lightning as pl

Array = npt.NDArray[np.float64]

# Points of a schedule that is sampled instead of stepped.
_NUM_SAMPLES = 2000

# Steps of a scheduler that has to be stepped: at most `_MAX_STEPS`, and fewer with many groups.
_MAX_STEPS, _MAX_GROUP_STEPS = 10_000, 50_000

# The top of a cycle or of a warm-up may lie between two steps. A peak just below 1 is one of 1.
_NEARLY_ONE = 0.9

# A rate of this share of the highest ends the warm-up.
_AT_PEAK = 0.99

# Rates that differ by less than this share are equal.
_ROUNDING = 1e-9

# The home holds this value in the simulation: floors and targets in absolute terms are small beside it.
_SIMULATED_VALUE = 1.0

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


@dataclass(frozen=True, eq=False)
class Schedule:
    """The learning rates of all groups over a training.

    A *value* of the learning rate means the highest rate that the reference group reaches, with its ratio to the rate
    of the module taken out: the rate itself where a group is built on ``self.lr``, and the home's value at the peak
    where every group is built on a multiple.

    Attributes:
        groups: The parameter groups, in the order of the columns.
        ratios: Rate that each group is built on, divided by that of the home; shape (groups,).
        shapes: Factor of each group at equidistant moments of the training, in units of the reference's highest; shape
            (points, groups).
        at_peak: The same at the moment of the peak; shape (groups,).
        peak: Highest factor of the reference group: the value divided by the rate that the schedule is built on.
        is_simulated: Whether the schedule could be simulated. If not, it is taken for a constant one.

    Note:
        A scheduler that waits for a metric (``ReduceLROnPlateau``) is taken for constant. Floors and targets in
        absolute terms (``eta_min``) are taken for zero: a peak is what follows the learning rate. With manual
        optimization it is unknown when the module steps its schedulers, so nothing is simulated.

    """

    groups: tuple[GroupIndex, ...]
    ratios: Array
    shapes: Array
    at_peak: Array
    peak: float = 1.0
    is_simulated: bool = False

    @classmethod
    def simulate(
        cls,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        num_steps: int,
        steps_per_epoch: int,
        steps_done: int = 0,
        home: Home | None = None,
    ) -> Schedule:
        """Simulates the schedule of a training; nothing is changed.

        Args:
            trainer: A Trainer inside ``fit`` whose loaders exist.
            pl_module: Its module.
            num_steps: Optimizer steps that are still to come.
            steps_per_epoch: Optimizer steps of an epoch.
            steps_done: Optimizer steps since the schedulers were built. The peak is that of the whole schedule, the
                shapes begin here.
            home: Where the module keeps its learning rate.

        Returns:
            The schedule; a constant one if it cannot be simulated.

        Note:
            Runs ``configure_optimizers`` once, and once more if the peak differs from 1. Up to 2000 moments are
            computed of a schedule whose moments do not depend on each other (most of torch's and timm's). Others are
            stepped, at most 10000 times; their last rates are held.

        """
        groups = tuple(index for index, _ in current_optimizers(trainer).groups())
        ratios = _ratios(current_optimizers(trainer), home)
        constant = cls.constant(groups, ratios)
        configs = trainer.strategy.lr_scheduler_configs
        if not pl_module.automatic_optimization or all(config.reduce_on_plateau for config in configs):
            return constant
        plan = _Plan(trainer, pl_module, num_steps, steps_per_epoch, steps_done)
        factors = _simulate(plan, home, _SIMULATED_VALUE)
        if factors is None or factors.points.shape[1] != len(groups):
            return constant
        reference = _reference(factors, ratios, groups, home)
        if reference is None:
            return constant
        row, peak = factors.peak_of(reference)
        if _NEARLY_ONE <= peak <= 1 + 1e-9:
            built_peak = 1.0
        elif home is not None and not _has_peak(_simulate(plan, home, _SIMULATED_VALUE / 2), reference, peak):
            return constant
        else:
            built_peak = peak
        points = factors.points.copy()
        points[min(row, len(points) - 1)] = factors.at_peak(reference)
        return cls(
            groups,
            ratios,
            _rounded(points[min(plan.first_row, len(points) - 1) :] / peak),
            _rounded(factors.at_peak(reference) / peak),
            built_peak,
            True,
        )

    @classmethod
    def constant(cls, groups: Sequence[GroupIndex], ratios: Array) -> Schedule:
        """A schedule that stays at the rate that it is built on."""
        return cls(tuple(groups), ratios, np.ones((1, len(groups))), np.ones(len(groups)))

    @property
    def rates(self) -> Array:
        """Rates of the groups at equidistant moments, divided by the value; shape (points, groups)."""
        return self.shapes * self.ratios

    @property
    def is_constant(self) -> bool:
        """Whether no rate changes during the training."""
        return bool(np.allclose(self.shapes, self.shapes[0], rtol=1e-6, atol=0))

    @property
    def decays(self) -> bool:
        """Whether all groups end below half of their highest rate."""
        return bool((self.shapes[-1] < 0.5 * self.shapes.max(axis=0)).all())

    @property
    def warm_up(self) -> float:
        """The part of the training, from 0 to 1, that passes until every group has been at its highest rate."""
        is_at_peak = self.shapes >= _AT_PEAK * self.shapes.max(axis=0)
        return float(is_at_peak.argmax(axis=0).max()) / len(self.shapes)

    def shape(self, progress: float | None = None) -> dict[GroupIndex, float]:
        """The factor of each group in units of the reference's highest.

        Args:
            progress: The part of the training that is done, from 0 to 1; ``None``: the moment of the peak.

        """
        if progress is None:
            row = self.at_peak
        else:
            row = self.shapes[max(0, min(int(progress * len(self.shapes) + 1e-9), len(self.shapes) - 1))]
        return dict(zip(self.groups, row.tolist(), strict=True))

    def factors(self, progress: float) -> tuple[float, ...]:
        """Rates of the groups, divided by the value, when a part of the training (0 to 1) is done."""
        shape = self.shape(progress).values()
        return tuple(factor * ratio for factor, ratio in zip(shape, self.ratios.tolist(), strict=True))


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
    plan = _Plan(trainer, pl_module, num_steps, steps_per_epoch, only=position)
    factors = _simulate(plan, None, _SIMULATED_VALUE)
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
    plan = _Plan(trainer, pl_module, num_steps, steps_per_epoch, steps_done)
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


class _Plan:
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
class _Factors:
    """Rates divided by the rates that the groups are built on.

    Args:
        points: At equidistant ticks; shape (points, groups).
        around_peak: For each group, at the ticks around its highest point; missing if all ticks are in `points`.

    """

    points: Array
    around_peak: dict[int, Array]

    def peak_of(self, group: int) -> tuple[int, float]:
        """The row of a group's highest point, and its factor there."""
        return int(self.points[:, group].argmax()), float(self.at_peak(group)[group])

    def at_peak(self, group: int) -> Array:
        """The factors of all groups where that of `group` is highest."""
        rows = self.around_peak.get(group, self.points)
        row: Array = rows[int(rows[:, group].argmax())]
        return row


def _simulate(plan: _Plan, home: Home | None, value: float) -> _Factors | None:
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
    plan: _Plan, build: Callable[[], ConfiguredOptimizers], set_progress: Callable[[int, int], None]
) -> _Factors | None:
    configured = build()
    if len(configured.schedulers) != len(plan.configs):
        return None
    groups = [group for _, group in configured.groups()]
    bases = np.array(list(configured.base_lrs().values()))
    bases[bases <= 0] = math.inf  # such a group stays at zero

    def read() -> Array:
        rates: Array = np.array([float(group["lr"]) for group in groups])
        factors: Array = rates / bases
        return factors

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
        points = look(ticks)
        around: dict[int, Array] = {}
        by_row: dict[int, Array] = {}
        for group, row in enumerate(points.argmax(axis=0).tolist()):
            if row not in by_row:
                end = ticks[row + 1] if row + 1 < len(ticks) else plan.num_ticks
                by_row[row] = look(range(ticks[max(0, row - 1)], end))
            around[group] = by_row[row]
        return _Factors(points, around)

    rows = [first]
    num_ticks = min(plan.num_ticks, max(_NUM_SAMPLES, min(_MAX_STEPS, _MAX_GROUP_STEPS // len(groups))))
    for tick in range(num_ticks - 1):
        try:
            plan.advance(configured.schedulers, tick, set_progress)
        except _ENDS:  # the end of a schedule of a fixed length
            break
        rows.append(read())
    stepped = np.array(rows)
    if len(rows) == plan.num_ticks:
        return _Factors(stepped, {})
    if len(rows) == num_ticks and (stepped.argmax(axis=0) > 0.95 * num_ticks).any():
        return None  # it may climb further
    ticks = plan.sample(min(_NUM_SAMPLES, plan.num_ticks))
    points = stepped[np.minimum(ticks, len(stepped) - 1)]
    return _Factors(points, dict.fromkeys(range(len(groups)), stepped))


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


def _ratios(configured: ConfiguredOptimizers, home: Home | None) -> Array:
    """The rate that each group is built on, divided by the home's, or by that of the first group with a rate > 0."""
    base_lrs = configured.base_lrs()
    value = next((base for base in base_lrs.values() if base > 0), PLACEHOLDER_LR)
    probed = {}
    if home is not None:
        value, probed = home.value or PLACEHOLDER_LR, home.probe.ratios
    return np.array([probed.get(index, base / value) for index, base in base_lrs.items()])


def _reference(factors: _Factors, ratios: Array, groups: Sequence[GroupIndex], home: Home | None) -> int | None:
    """The column of the group whose peak is the value; ``None`` if no rate that follows is > 0."""
    peaks = np.array([factors.peak_of(group)[1] for group in range(len(ratios))])
    follows = [home is None or index in home.probe.ratios for index in groups]
    possible = [group for group in range(len(ratios)) if follows[group] and ratios[group] > 0 and peaks[group] > 0]
    if not possible:
        return None
    built_on_it = [group for group in possible if math.isclose(ratios[group], 1.0, rel_tol=1e-9)]
    candidates = built_on_it or [group for group in possible if ratios[group] == ratios[possible[0]]]
    highest = max(peaks[candidates])
    return next(group for group in candidates if peaks[group] >= highest * (1 - 1e-9))


def _has_peak(factors: _Factors | None, group: int, peak: float) -> bool:
    return factors is not None and math.isclose(factors.peak_of(group)[1], peak, rel_tol=1e-3)


def _rounded(factors: Array) -> Array:
    """Exactly 1 where a factor differs from it by rounding."""
    return np.where(np.isclose(factors, 1.0, rtol=1e-9, atol=0), 1.0, factors)


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
