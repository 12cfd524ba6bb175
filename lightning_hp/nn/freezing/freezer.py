"""Freeze parameters and modules, and restore the flags that they had before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn
from torch.nn import Parameter


class Freezer:
    """Keeps a set of parameters and modules frozen; everything that leaves the set gets its old flags back.

    A frozen parameter requires no gradient and has none, so an optimizer skips it: no step, no weight decay, no
    momentum, no state. A frozen module is in evaluation mode: dropout is off, running statistics are not updated, and
    the output in training is the same as in evaluation. Parameters and modules that the user froze stay frozen.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> freezer = Freezer()
        >>> freezer.freeze([net[0].weight], [net[1]])
        >>> net[0].weight.requires_grad, net[1].training
        (False, False)
        >>> freezer.unfreeze()
        >>> net[0].weight.requires_grad, net[1].training
        (True, True)

    """

    def __init__(self) -> None:
        # Parameters and modules that were trained before this freezer froze them, and all modules to keep frozen.
        self._parameters: dict[Parameter, None] = {}
        self._training: dict[nn.Module, None] = {}
        self._modules: Sequence[nn.Module] = ()

    def freeze(self, parameters: Iterable[Parameter], modules: Sequence[nn.Module]) -> None:
        """Freezes exactly these, and unfreezes all others that it froze before."""
        frozen_parameters, frozen_modules = dict.fromkeys(parameters), dict.fromkeys(modules)
        for parameter in [parameter for parameter in self._parameters if parameter not in frozen_parameters]:
            parameter.requires_grad_(True)
            del self._parameters[parameter]
        for parameter in frozen_parameters:
            if parameter.requires_grad:
                parameter.requires_grad_(False)
                parameter.grad = None
                self._parameters[parameter] = None
        for module in [module for module in self._training if module not in frozen_modules]:
            # Not `module.train()`, which would change its children too; some of them may be frozen.
            module.training = True
            del self._training[module]
        self._training.update((module, None) for module in frozen_modules if module.training)
        self._modules = list(frozen_modules)
        self.restore_eval_mode()

    def restore_eval_mode(self) -> None:
        """Sets frozen modules to evaluation mode again if another part of the program called ``train()``."""
        for module in self._modules:
            if module.training:
                module.training = False

    def unfreeze(self) -> None:
        """Unfreezes everything that it froze."""
        self.freeze((), ())
