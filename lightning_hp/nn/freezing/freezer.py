"""Keep parameters and modules still, and give back what was taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn
from torch.nn import Parameter


class Freezer:
    """Holds a set of parameters and modules frozen; what is no longer in the set becomes what it was.

    A frozen parameter requires no gradient and has none, so that an optimizer passes it by: no step, no weight decay,
    no momentum, no state. A frozen module is in evaluation mode: it neither drops nor updates statistics, and computes
    in training what it computes afterwards. What the user froze stays frozen when the freezer lets go.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> freezer = Freezer()
        >>> freezer.hold([net[0].weight], [net[1]])
        >>> net[0].weight.requires_grad, net[1].training
        (False, False)
        >>> freezer.release()
        >>> net[0].weight.requires_grad, net[1].training
        (True, True)

    """

    def __init__(self) -> None:
        # Of what is frozen, that which was not before; and all modules that have to stay so.
        self._parameters: dict[Parameter, None] = {}
        self._training: dict[nn.Module, None] = {}
        self._modules: Sequence[nn.Module] = ()

    def hold(self, parameters: Iterable[Parameter], modules: Sequence[nn.Module]) -> None:
        """Freezes these, and lets go of all others."""
        wanted, still = dict.fromkeys(parameters), dict.fromkeys(modules)
        for parameter in [parameter for parameter in self._parameters if parameter not in wanted]:
            parameter.requires_grad_(True)
            del self._parameters[parameter]
        for parameter in wanted:
            if parameter.requires_grad:
                parameter.requires_grad_(False)
                parameter.grad = None
                self._parameters[parameter] = None
        for module in [module for module in self._training if module not in still]:
            # The flag alone: `train` would reach its children, of which some may be frozen.
            module.training = True
            del self._training[module]
        self._training.update((module, None) for module in still if module.training)
        self._modules = list(still)
        self.keep_still()

    def keep_still(self) -> None:
        """Puts frozen modules that somebody set to training mode back into evaluation mode."""
        for module in self._modules:
            if module.training:
                module.training = False

    def release(self) -> None:
        """Lets go of everything."""
        self.hold((), ())
