"""Lowers the rates of the first steps without writing them into the schedule.

Each step multiplies the current rate by a factor, and restores it when the step is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lightning_hp.functional.learning_rate.scaling import warmup_lr
from lightning_hp.hyperparameters.learning_rate.numbers import write_number


class Warmup:
    """Raises the rates of the first optimizer steps linearly, from a share of the rate to the rate itself.

    The rates are changed inside ``optimizer.step()`` only. Before and after it they are those of the user's schedule,
    which does not know of the warm-up. Nothing is stored in the optimizer, so checkpoints stay the same. A step that a
    gradient scaler skips is not changed.

    Args:
        optimizers: The optimizers.
        start: The share of the rate in the first step, > 0 and <= 1.
        num_steps: Length of the warm-up in optimizer steps.
        steps_done: Returns the number of optimizer steps done so far.
        is_on: Returns whether the next step is one of the training.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> weight.grad = -torch.ones(1)
        >>> optimizer, done = torch.optim.SGD([weight], lr=1.0), [0]
        >>> warmup = Warmup([optimizer], start=0.25, num_steps=3, steps_done=lambda: done[0], is_on=lambda: True)
        >>> for done[0] in range(4):
        ...     before = weight.item()
        ...     optimizer.step()
        ...     print(weight.item() - before, optimizer.param_groups[0]["lr"])
        0.25 1.0
        0.5 1.0
        0.75 1.0
        1.0 1.0

    """

    def __init__(
        self,
        optimizers: Iterable[Optimizer],
        start: float,
        num_steps: int,
        steps_done: Callable[[], int],
        is_on: Callable[[], bool],
    ) -> None:
        self._start = start
        self._num_steps = num_steps
        self._steps_done = steps_done
        self._is_on = is_on
        self._original_lrs: list[tuple[dict[str, Any], Any]] = []
        self._handles = [
            handle
            for optimizer in optimizers
            for handle in (
                optimizer.register_step_pre_hook(self._lower),
                optimizer.register_step_post_hook(self._restore),
            )
        ]

    def remove(self) -> None:
        """Ends the warm-up."""
        for handle in self._handles:
            handle.remove()

    def _lower(self, optimizer: Optimizer, *args: Any) -> None:
        done = self._steps_done()
        if not self._is_on() or done >= self._num_steps:
            return
        factor = warmup_lr(done, self._start, 1.0, self._num_steps)
        for group in optimizer.param_groups:
            lr = group["lr"]
            self._original_lrs.append((group, lr.clone() if isinstance(lr, Tensor) else lr))
            write_number(group, "lr", lr * factor)

    def _restore(self, optimizer: Optimizer, *args: Any) -> None:
        for group, lr in self._original_lrs:
            write_number(group, "lr", lr)
        self._original_lrs.clear()
