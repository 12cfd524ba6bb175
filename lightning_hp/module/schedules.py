"""Learning-rate schedules by the names that torch gives them, as long as the training, with a warm-up."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau

from lightning_hp.functional.checks import is_number
from lightning_hp.module.optimizers import by_name

Interval = Literal["step", "epoch"]

# What takes functions or other schedulers cannot be said in plain words.
_NOT_PLAIN = ("ChainedScheduler", "LambdaLR", "MultiplicativeLR", "SequentialLR")
_LENGTH = {"CosineAnnealingLR": "T_max", "LinearLR": "total_iters", "PolynomialLR": "total_iters"}
_PEAKED = ("CyclicLR", "OneCycleLR")
# They compute each rate from the first one, so that what another scheduler did is forgotten.
_NO_WARMUP = (*_PEAKED, "CosineAnnealingWarmRestarts")


@dataclass(frozen=True)
class Schedule:
    """A schedule that is built when the length of the training is known.

    Args:
        name: The name of a class in ``torch.optim.lr_scheduler``, in any case; ``None``: the rate stays.
        kwargs: Its arguments. A length that is missing (``T_max``, ``total_iters``, ``total_steps``) is the training's.
            Peaks of ``OneCycleLR`` and ``CyclicLR`` are the rates of the groups.
        interval: Whether it moves every ``"step"`` or every ``"epoch"``. ``None``: each step where the length is
            that of the training or the schedule is a cycle, else each epoch.
        monitor: The logged value that ``ReduceLROnPlateau`` follows.
        warmup_steps: Optimizer steps, or the share of the training (> 0 and < 1), over which the rate rises in a
            straight line: what the schedule says is multiplied by it.

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If it is out of its range, or the scheduler does not take it.

    """

    name: str | None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    interval: Interval | None = None
    monitor: str = "val_loss"
    warmup_steps: int | float = 0

    def __post_init__(self) -> None:
        steps = self.warmup_steps
        if not is_number(steps) or not (0 <= steps < 1 or (1 <= steps < math.inf and not steps % 1)):
            raise ValueError(f"Expected `warmup_steps` to be an int >= 0 or a share < 1, but got {steps!r}.")
        if self.interval not in ("step", "epoch", None):
            raise ValueError(f"Expected `scheduler_interval` to be 'step', 'epoch' or None, but got {self.interval!r}.")
        if not isinstance(self.monitor, str):
            raise TypeError(f"Expected `monitor` to be the name of a logged value, but got {self.monitor!r}.")
        if self.name is None:
            if self.kwargs or self.interval:
                raise ValueError(f"Expected a `scheduler` for its arguments {dict(self.kwargs)}, but got None.")
            return
        kind = _scheduler_class(self.name).__name__
        if kind in _PEAKED and "max_lr" in self.kwargs:
            raise ValueError(
                f"Expected `scheduler_kwargs` without 'max_lr', which is `lr`, but got {dict(self.kwargs)}."
            )
        if kind in _PEAKED and self.interval == "epoch":
            raise ValueError(f"Expected `scheduler_interval` 'step' or None for {kind}, but got 'epoch'.")
        if kind in _NO_WARMUP and steps:
            raise ValueError(
                f"Expected `warmup_steps` 0 for {kind}, which sets every rate itself, but got {steps!r}."
                + (" It warms up by itself: see its `pct_start`." if kind == "OneCycleLR" else "")
            )

    def check(self, optimizer: Optimizer) -> None:
        """Builds it on an optimizer that is thrown away, to see that it takes its arguments.

        Raises:
            ValueError: If it does not.

        """
        if self.name is None:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._main(optimizer, lambda interval: 100)
        except (TypeError, ValueError, KeyError) as error:
            kind = _scheduler_class(self.name).__name__
            raise ValueError(
                f"Expected `scheduler_kwargs` to be arguments that {kind} takes with this optimizer, but got "
                f"{dict(self.kwargs)}: {error}"
            ) from error

    def build(self, optimizer: Optimizer, length: Callable[[Interval], int]) -> list[dict[str, Any]]:
        """The schedulers of an optimizer, as Lightning takes them.

        Args:
            optimizer: The optimizer.
            length: Gives the length of the training in steps or epochs. It is asked only where it is needed.

        """
        steps = int(self.warmup_steps) if self.warmup_steps >= 1 else 0
        if 0 < self.warmup_steps < 1:
            steps = round(self.warmup_steps * length("step"))
        configs: list[dict[str, Any]] = []
        if steps > 1:
            warmup = LinearLR(optimizer, start_factor=1 / steps, total_iters=steps - 1)
            configs.append({"scheduler": warmup, "interval": "step", "name": "warmup"})
        if self.name is not None:
            scheduler, interval = self._main(optimizer, length)
            config: dict[str, Any] = {"scheduler": scheduler, "interval": interval}
            if isinstance(scheduler, ReduceLROnPlateau):
                config["monitor"] = self.monitor
            configs.append(config)
        return configs

    def _main(self, optimizer: Optimizer, length: Callable[[Interval], int]) -> tuple[Any, Interval]:
        kind = _scheduler_class(self.name)
        name, kwargs = kind.__name__, dict(self.kwargs)
        interval: Interval = self.interval or "epoch"
        if name in _PEAKED:
            interval = "step"
            peaks = [float(group["lr"]) for group in optimizer.param_groups]
            kwargs["max_lr"] = peaks
            if name == "CyclicLR":
                # Smith: the largest rate is three or four times the smallest.
                kwargs.setdefault("base_lr", [peak / 4 for peak in peaks])
            elif not {"total_steps", "epochs", "steps_per_epoch"} & kwargs.keys():
                kwargs["total_steps"] = length("step")
        elif name in _LENGTH and _LENGTH[name] not in kwargs:
            interval = self.interval or "step"
            kwargs[_LENGTH[name]] = length(interval)
        return kind(optimizer, **kwargs), interval


def _scheduler_class(name: Any) -> Any:
    advice = "Override `configure_optimizers` for another."
    return by_name("scheduler", name, lr_scheduler, LRScheduler, _NOT_PLAIN, advice)
