"""The arguments of ``BatchSizeScaler`` that decide the batch size, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from lightning_hp.functional.batch_size.search import RoundTo
from lightning_hp.functional.checks import (
    check_bool,
    check_choice,
    check_int,
    check_number,
)
from lightning_hp.functional.learning_rate.scaling import MIN_TRAINING_STEPS
from lightning_hp.tuning.batch_size.choice import Objective

#: A training keeps this share of its optimizer steps by default.
MIN_STEP_SHARE = 0.25

#: Share of the best throughput that is given up for a smaller batch, and so for more optimizer steps.
SPEED_GIVEN_UP = 0.3

#: The same where a smaller batch brings no more optimizer steps, or the sizes to choose from are given.
SPEED_GIVEN_UP_FOR_NOTHING = 0.15

_MAX_STEPS_PER_TRIAL = 1000

#: How the learning rate follows the batch size.
Scaling = Literal["linear", "sqrt", "auto"]


class ClassOptions(TypedDict, total=False):
    """How the classes are counted and how certain each of them is in an optimizer step.

    Attributes:
        num_classes: The number of classes, >= 1, also where some of them have no samples; ``None`` (default): those
            that occur in the labels of the dataset.
        coverage: The probability, > 0 and < 1, that a step contains every class ``min_per_class`` times; ``None``
            (default): ``min_per_class`` times on average.
        read_labels: Whether every sample is read once where the dataset has no labels of its own; ``False`` by default.
    """

    num_classes: int | None
    coverage: float | None
    read_labels: bool


class BatchSizeLimits(TypedDict, total=False):
    """What a larger batch may cost.

    Attributes:
        min_steps_per_epoch: Optimizer steps that an epoch keeps, >= 1; 10 by default.
        min_training_steps: Optimizer steps that the training keeps, >= 1; 250 by default.
        min_step_share: Share of the present number of optimizer steps that the training keeps, > 0 and <= 1; 0.25 by
            default, and with ``objective="memory"`` no such share.
        within: Share of the best throughput that is given up for a smaller batch, > 0 and < 1; 0.3 by default, and 0.15
            with ``round_to``, ``effective_batch_size`` or ``objective="memory"`` and outside of ``fit``.
        memory_share: Share of the free memory that may be used, > 0 and <= 1; 0.9 by default.
    """

    min_steps_per_epoch: int
    min_training_steps: int
    min_step_share: float
    within: float
    memory_share: float


@dataclass(frozen=True)
class SearchSettings:
    """The arguments of :class:`~lightning_hp.BatchSizeScaler` that decide the batch size; see there.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.

    Note:
        ``own_step`` is no argument: samples of an optimizer step before an earlier search on the same module;
        ``None``: there was none.

    """

    objective: Objective = "throughput"
    min_per_class: int = 3
    init_val: int = 8
    max_val: int = 8192
    round_to: RoundTo | None = None
    effective_batch_size: int | None = None
    lr_scaling: Scaling | None = "auto"
    base_batch_size: int | None = None
    warmup: bool | int = False
    margin: float = 0.03
    steps_per_trial: int = 3
    num_classes: int | None = None
    coverage: float | None = None
    read_labels: bool = False
    min_steps_per_epoch: int = 10
    min_training_steps: int = MIN_TRAINING_STEPS
    min_step_share: float | None = None
    within: float | None = None
    memory_share: float = 0.9
    noise_scale: bool = False
    own_step: int | None = None

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "objective": check_choice("objective", self.objective, get_args(Objective)),
            "margin": check_number("margin", self.margin, minimum=0, below=1),
            "memory_share": check_number("memory_share", self.memory_share, above=0, maximum=1),
            "read_labels": check_bool("read_labels", self.read_labels),
            "noise_scale": check_bool("noise_scale", self.noise_scale),
        }
        for name, minimum in (
            ("min_per_class", 0),
            ("init_val", 1),
            ("max_val", 1),
            ("min_steps_per_epoch", 1),
            ("min_training_steps", 1),
        ):
            checked[name] = check_int(name, getattr(self, name), minimum)
        checked["steps_per_trial"] = check_int("steps_per_trial", self.steps_per_trial, 2, _MAX_STEPS_PER_TRIAL)
        for name in ("num_classes", "effective_batch_size", "base_batch_size"):
            if getattr(self, name) is not None:
                checked[name] = check_int(name, getattr(self, name), 1, also="None")
        if self.coverage is not None:
            checked["coverage"] = check_number("coverage", self.coverage, above=0, below=1, also="None")
        if self.lr_scaling is not None:
            checked["lr_scaling"] = check_choice("lr_scaling", self.lr_scaling, get_args(Scaling), also="None")
        if not isinstance(self.warmup, bool):
            checked["warmup"] = check_int("warmup", self.warmup, 1, also="True or False")
        if self.min_step_share is not None:
            checked["min_step_share"] = check_number("min_step_share", self.min_step_share, above=0, maximum=1)
        if self.within is not None:
            checked["within"] = check_number("within", self.within, above=0, below=1)
        if isinstance(self.round_to, str):
            words = ("power", "half_power")
            checked["round_to"] = check_choice("round_to", self.round_to, words, also="an int >= 1, or None")
        elif self.round_to is not None:
            checked["round_to"] = check_int("round_to", self.round_to, 1, also="'power', 'half_power', or None")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def grid(self) -> RoundTo:
        """The sizes that may be chosen: by default such as a second run finds again, or for memory all."""
        if self.round_to is not None:
            return self.round_to
        return 1 if self.objective == "memory" else "half_power"

    @property
    def step_share(self) -> float | None:
        """Share of the optimizer steps that the training keeps; ``None``: any."""
        by_default = None if self.objective == "memory" else MIN_STEP_SHARE
        return by_default if self.min_step_share is None else self.min_step_share
