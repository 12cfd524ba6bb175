"""What decides the search of a learning rate, and what it may cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: How the rate is found; see :class:`~lightning_hp.LRFinder`.
Rule = Literal["auto", "trainings", "fall", "one_cycle", "steepest", "valley", "slide", "minimum", "half"]

#: Fewer points are too few for a curve.
MIN_STEPS = 10

#: Optimizer steps of a search, unless a share of the training is more or the whole training is less.
DEFAULT_STEPS = 600
DEFAULT_SHARE = 0.1

#: Share of a training that is limited in time (``max_time``) which a search may take, beside its first sweep.
TIME_SHARE = 0.25


@dataclass(frozen=True)
class LearningRateSettings:
    """The arguments of :class:`~lightning_hp.LRFinder` that decide the learning rate; see there.

    Attributes:
        lrs: Learning rates of the sweep over the whole range, in ascending order.
        early_stop_threshold: Ends steps once their loss stays above this multiple of the initial loss, or ``None``.
        num_repeats: Sweeps whose median is read.
        rule: How the rate is found.
        zoom: Whether there is a second, finer sweep over the part where the loss falls.
        budget: Optimizer steps that the search may take, or ``None`` for :func:`default_budget`.
        may_halve: Whether the sweep may take half as many steps where few are left for short trainings.

    """

    lrs: tuple[float, ...]
    early_stop_threshold: float | None
    num_repeats: int
    rule: Rule
    zoom: bool
    budget: int | None = None
    may_halve: bool = False


def default_budget(planned_steps: int | None) -> int:
    """600 optimizer steps or a tenth of the training, whichever is more, and never more than the training.

    Args:
        planned_steps: Optimizer steps of the training, or ``None`` if it has no limit.

    Returns:
        The steps that the search may take.

    """
    if planned_steps is None:
        return DEFAULT_STEPS
    return min(planned_steps, max(DEFAULT_STEPS, int(DEFAULT_SHARE * planned_steps)))
