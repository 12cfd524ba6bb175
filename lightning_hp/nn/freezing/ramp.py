"""Learning rates that rise after an unfreezing, for single parameters.

    before = w
    w = optimizer_step(w)            # at the learning rate of its group
    w = before + factor * (w - before)

For optimizers whose step is proportional to the learning rate, as those of torch except Rprop and LBFGS are, this is a
step at ``factor`` times the rate. Groups, schedules and checkpoints do not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer


class RateRamp:
    """Multiplies the steps of parameters by a factor < 1 while it is attached to their optimizers.

    Attributes:
        factors: The factor of each parameter, > 0; parameters that are not in it, or have 1, step as usual.

    Example:
        >>> weight = Parameter(torch.tensor([1.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> ramp = RateRamp()
        >>> ramp.attach([optimizer])
        >>> ramp.factors = {weight: 0.1}
        >>> weight.grad = torch.tensor([1.0])
        >>> optimizer.step()
        >>> weight.detach()
        tensor([0.9500])
        >>> ramp.detach()

    """

    def __init__(self) -> None:
        self.factors: Mapping[Parameter, float] = {}
        self._handles: list[Any] = []
        self._before: dict[Parameter, Tensor] = {}

    def attach(self, optimizers: Iterable[Optimizer]) -> None:
        """Acts on the steps of these optimizers from now on, and of no others."""
        self.detach()
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._remember))
            self._handles.append(optimizer.register_step_post_hook(self._scale))

    def detach(self) -> None:
        """Acts on no optimizer any more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.factors, self._before = {}, {}

    def _remember(self, optimizer: Optimizer, *_: Any) -> None:
        self._before = {
            parameter: parameter.detach().clone()
            for group in optimizer.param_groups
            for parameter in group["params"]
            if self.factors.get(parameter, 1.0) < 1 and parameter.requires_grad
        }

    @torch.no_grad()
    def _scale(self, *_: Any) -> None:
        for parameter, before in self._before.items():
            parameter.sub_(before).mul_(self.factors[parameter]).add_(before)
        self._before = {}
