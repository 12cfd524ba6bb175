"""The shape of a learning-rate schedule over the planned training, from a simulation on copies.

The rate that a schedule is built on is not always its highest. A ``LambdaLR`` may climb to ten times the rate, or turn
a rate of 1 into 1e-3; it may hold another factor for each group, and timm's schedulers multiply by the ``lr_scale`` of
a group. So ``configure_optimizers`` runs once more, and the schedulers are stepped as ``fit`` will step them:

    for each optimizer step of the plan:
        record the rate of every group, divided by the rate that it is built on, and its momentum
        step the schedulers whose interval and frequency have come
    reference = group whose factor gets highest, among those that are built on the learning rate itself
    peak      = highest factor of the reference
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_hp.hyperparameters.learning_rate.home import PLACEHOLDER_LR, Home
from lightning_hp.hyperparameters.learning_rate.numbers import ConfiguredOptimizers, GroupIndex
from lightning_hp.hyperparameters.learning_rate.rebuild import current_optimizers
from lightning_hp.hyperparameters.learning_rate.simulation import Array, Factors, Plan, simulate

if TYPE_CHECKING:
    import pytorch_lightning as pl

# The top of a cycle or of a warm-up may lie between two steps. A peak just below 1 is one of 1.
_NEARLY_ONE = 0.9

# A rate of this share of the highest ends the warm-up.
_AT_PEAK = 0.99

# The home holds this value in the simulation: floors and targets in absolute terms are small beside it.
_SIMULATED_VALUE = 1.0


@dataclass(frozen=True, eq=False)
class Schedule:
    """The learning rates of all groups over a training, and their momentum where a scheduler changes it.

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
        momenta: Momentum, or Adam's first beta, of each group at the moments of ``shapes``, NaN for a group without;
            ``None`` where it stays. ``OneCycleLR`` and ``CyclicLR`` lower it while the rate rises.
        momenta_at_peak: The same at the moment of the peak; shape (groups,).

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
    momenta: Array | None = None
    momenta_at_peak: Array | None = None

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
        plan = Plan(trainer, pl_module, num_steps, steps_per_epoch, steps_done)
        factors = simulate(plan, home, _SIMULATED_VALUE)
        if factors is None or factors.points.shape[1] != len(groups):
            return constant
        reference = _reference(factors, ratios, groups, home)
        if reference is None:
            return constant
        row, peak = factors.peak_of(reference)
        if _NEARLY_ONE <= peak <= 1 + 1e-9:
            built_peak = 1.0
        elif home is not None and not _has_peak(simulate(plan, home, _SIMULATED_VALUE / 2), reference, peak):
            return constant
        else:
            built_peak = peak
        points = factors.points.copy()
        points[row] = factors.at_peak(reference)
        first = min(plan.first_row, len(points) - 1)
        has_momenta = factors.has_changing_momenta
        return cls(
            groups,
            ratios,
            _rounded(points[first:] / peak),
            _rounded(factors.at_peak(reference) / peak),
            built_peak,
            True,
            factors.momenta[first:] if has_momenta else None,
            factors.momenta[row] if has_momenta else None,
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
        row = self.at_peak if progress is None else self.shapes[self._row(progress)]
        return dict(zip(self.groups, row.tolist(), strict=True))

    def momentum(self, progress: float | None = None) -> dict[GroupIndex, float]:
        """The momentum, or Adam's first beta, of each group whose momentum a scheduler changes.

        Args:
            progress: As for :meth:`shape`.

        """
        if self.momenta is None or self.momenta_at_peak is None:
            return {}
        row = self.momenta_at_peak if progress is None else self.momenta[self._row(progress)]
        return {index: value for index, value in zip(self.groups, row.tolist(), strict=True) if not math.isnan(value)}

    def factors(self, progress: float) -> tuple[float, ...]:
        """Rates of the groups, divided by the value, when a part of the training (0 to 1) is done."""
        shape = self.shape(progress).values()
        return tuple(factor * ratio for factor, ratio in zip(shape, self.ratios.tolist(), strict=True))

    def _row(self, progress: float) -> int:
        return max(0, min(int(progress * len(self.shapes) + 1e-9), len(self.shapes) - 1))


def _ratios(configured: ConfiguredOptimizers, home: Home | None) -> Array:
    """The rate that each group is built on, divided by the home's, or by that of the first group with a rate > 0."""
    base_lrs = configured.base_lrs()
    value = next((base for base in base_lrs.values() if base > 0), PLACEHOLDER_LR)
    probed = {}
    if home is not None:
        value, probed = home.value or PLACEHOLDER_LR, home.probe.ratios
    return np.array([probed.get(index, base / value) for index, base in base_lrs.items()])


def _reference(factors: Factors, ratios: Array, groups: Sequence[GroupIndex], home: Home | None) -> int | None:
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


def _has_peak(factors: Factors | None, group: int, peak: float) -> bool:
    return factors is not None and math.isclose(factors.peak_of(group)[1], peak, rel_tol=1e-3)


def _rounded(factors: Array) -> Array:
    """Exactly 1 where a factor differs from it by rounding."""
    return np.where(np.isclose(factors, 1.0, rtol=1e-9, atol=0), 1.0, factors)
