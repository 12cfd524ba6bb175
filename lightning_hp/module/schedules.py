"""Learning-rate schedules by their names in ``torch.optim.lr_scheduler``, as long as the training, with a warm-up."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau

from lightning_hp.functional.checks import check_choice, check_options, check_str, is_number, wrong_type, wrong_value
from lightning_hp.module.annotated import check_annotated
from lightning_hp.module.optimizers import class_by_name

Interval = Literal["step", "epoch"]

# They take functions or other schedulers, which a configuration cannot express.
_EXCLUDED = ("ChainedScheduler", "LambdaLR", "MultiplicativeLR", "SequentialLR")
# The argument that is the length of the schedule.
_LENGTH = {"CosineAnnealingLR": "T_max", "LinearLR": "total_iters", "PolynomialLR": "total_iters"}
# Cycles: `max_lr` is the learning rate of each group.
_CYCLES = ("CyclicLR", "OneCycleLR")
# They compute each rate from the first one, so that the factor of a warm-up is lost.
_NO_WARMUP = (*_CYCLES, "CosineAnnealingWarmRestarts")
# Options that Lightning takes, not the scheduler.
_LIGHTNING_OPTIONS = ("interval", "monitor")


@dataclass(frozen=True)
class Schedule:
    """A schedule that is built when the length of the training is known.

    Args:
        name: The name of a class in ``torch.optim.lr_scheduler``, in upper or lower case; ``None``: a constant rate.
        options: Arguments of the scheduler, and two of Lightning's scheduler configuration. A missing length
            (``T_max``, ``total_iters``, ``total_steps``) is that of the training. The peaks of ``OneCycleLR`` and
            ``CyclicLR`` are the learning rates of the groups. ``"interval"``: ``"step"`` or ``"epoch"``; if missing,
            each step for cycles and where the length is that of the training, otherwise each epoch. ``"monitor"``: the
            logged value that ``ReduceLROnPlateau`` follows; if missing, ``"val_loss"``.
        warmup_steps: Number of optimizer steps, or fraction of the training (> 0 and < 1), in which a factor on the
            schedule rises linearly to 1; 0: no warm-up.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of range, or the scheduler cannot have it.

    """

    name: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    warmup_steps: float = 0

    def __post_init__(self) -> None:
        steps = _check_warmup_steps(self.warmup_steps)
        options = check_options("scheduler_options", self.options, "a dict of arguments of the scheduler")
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "warmup_steps", steps)
        interval = options.get("interval")
        if "interval" in options:
            check_choice("scheduler_options['interval']", interval, ("step", "epoch"))
        if "monitor" in options:
            check_str("scheduler_options['monitor']", options["monitor"], what="the name of a logged value")
        if self.name is None:
            if options:
                raise ValueError(f"Expected a `scheduler` for `scheduler_options` {options}, but got None.")
            return
        scheduler_class = _scheduler_class(self.name)
        kind = scheduler_class.__name__
        if "optimizer" in options:
            raise ValueError(f"Expected `scheduler_options` without 'optimizer', but got {options}.")
        arguments = {key: value for key, value in options.items() if key not in _LIGHTNING_OPTIONS}
        check_annotated("scheduler_options", scheduler_class, arguments)
        if kind in _CYCLES and "max_lr" in options:
            raise ValueError(f"Expected `scheduler_options` without 'max_lr', which is `lr`, but got {options}.")
        if kind in _CYCLES and interval == "epoch":
            raise ValueError(f"Expected `scheduler_options` with the interval 'step' for {kind}, but got 'epoch'.")
        if kind in _NO_WARMUP and steps:
            raise ValueError(
                f"Expected `warmup_steps` to be 0 for {kind}, which sets every rate itself, but got {steps:g}."
                + (" It has a warm-up of its own: see its `pct_start`." if kind == "OneCycleLR" else "")
            )

    def check(self, optimizer: Optimizer) -> None:
        """Builds the scheduler of a temporary optimizer and steps it once, to check that it takes its arguments.

        Raises:
            ValueError: If it does not.

        """
        if self.name is None:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scheduler, _ = self._scheduler(optimizer, lambda interval: 100)
                scheduler.step(*([1.0] if isinstance(scheduler, ReduceLROnPlateau) else []))
        except Exception as error:
            kind = _scheduler_class(self.name).__name__
            raise ValueError(
                f"Expected `scheduler_options` to be arguments that {kind} takes with this optimizer, but got "
                f"{dict(self.options)}: {error}"
            ) from error

    def build(self, optimizer: Optimizer, length: Callable[[Interval], int]) -> list[dict[str, Any]]:
        """The schedulers of an optimizer.

        Args:
            optimizer: The optimizer.
            length: Returns the length of the training in steps or epochs. It is called only if the length is needed.

        Returns:
            Lightning's configurations of the warm-up and the schedule, as far as there are any.

        """
        steps = int(self.warmup_steps) if self.warmup_steps >= 1 else 0
        if 0 < self.warmup_steps < 1:
            steps = round(self.warmup_steps * length("step"))
        configs: list[dict[str, Any]] = []
        if steps > 1:
            warmup = LinearLR(optimizer, start_factor=1 / steps, total_iters=steps - 1)
            configs.append({"scheduler": warmup, "interval": "step", "name": "warmup"})
        if self.name is not None:
            scheduler, interval = self._scheduler(optimizer, length)
            config: dict[str, Any] = {"scheduler": scheduler, "interval": interval}
            if isinstance(scheduler, ReduceLROnPlateau):
                config["monitor"] = self.options.get("monitor", "val_loss")
            configs.append(config)
        return configs

    def _scheduler(self, optimizer: Optimizer, length: Callable[[Interval], int]) -> tuple[Any, Interval]:
        kind = _scheduler_class(self.name)
        name = kind.__name__
        arguments = {key: value for key, value in self.options.items() if key not in _LIGHTNING_OPTIONS}
        interval: Interval = self.options.get("interval", "epoch")
        if name in _CYCLES:
            interval = "step"
            peaks = [float(group["lr"]) for group in optimizer.param_groups]
            arguments["max_lr"] = peaks
            if name == "CyclicLR":
                # Smith, 2017, section 3.3: the smallest rate is a third or a quarter of the largest.
                arguments.setdefault("base_lr", [peak / 4 for peak in peaks])
            elif not {"total_steps", "epochs", "steps_per_epoch"} & arguments.keys():
                arguments["total_steps"] = length("step")
        elif name in _LENGTH and _LENGTH[name] not in arguments:
            interval = self.options.get("interval", "step")
            arguments[_LENGTH[name]] = length(interval)
        return kind(optimizer, **arguments), interval


def _check_warmup_steps(steps: Any) -> float:
    expected = "an int >= 0, or a fraction of the training < 1"
    if not is_number(steps):
        wrong_type("warmup_steps", expected, steps)
    if not (0 <= steps < 1 or (1 <= steps < 2**63 and not steps % 1)):
        wrong_value("warmup_steps", expected, steps)
    return float(steps)


def _scheduler_class(name: Any) -> Any:
    return class_by_name("scheduler", name, lr_scheduler, LRScheduler, _EXCLUDED)
