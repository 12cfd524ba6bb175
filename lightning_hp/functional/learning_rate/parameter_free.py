"""Optimizers that find their step size themselves, so that no learning rate has to be found for them."""

from __future__ import annotations

from torch.optim import Optimizer

# Prefixes of class names, which also match variants such as DAdaptAdam and ProdigyPlusScheduleFree.
_PREFIXES = ("prodigy", "dadapt", "mechanic", "mechanized")
_NAMES = ("dog", "ldog")


def parameter_free_name(optimizer: Optimizer) -> str | None:
    """The name of an optimizer that finds its own step size: its ``lr`` is only a factor, best left near 1.

    Known are Prodigy, the D-Adaptation family, DoG and LDoG, Mechanic, and any optimizer with ``lr=None`` in a
    parameter group (Adafactor with ``relative_step``). ScheduleFree is not one of them: it replaces the schedule and
    keeps the learning rate.

    Args:
        optimizer: Any object with ``param_groups``. It is recognised by the names of its class and base classes.

    Returns:
        The name for a message, or ``None`` for an optimizer that needs a learning rate.

    References:
        K. Mishchenko and A. Defazio, *Prodigy: An Expeditiously Adaptive Parameter-Free Learner*, 2023.
        A. Defazio and K. Mishchenko, *Learning-Rate-Free Learning by D-Adaptation*, 2023.
        M. Ivgi, O. Hinder and Y. Carmon, *DoG is SGD's Best Friend*, 2023.
        A. Cutkosky, A. Defazio and H. Mehta, *Mechanic: A Learning Rate Tuner*, 2023.

    Example:
        >>> import torch
        >>> class Prodigy(torch.optim.SGD):
        ...     pass
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> parameter_free_name(Prodigy([weight], lr=1.0))
        'Prodigy'
        >>> parameter_free_name(torch.optim.SGD([weight], lr=0.1)) is None
        True

    """
    for base in type(optimizer).__mro__:
        name = base.__name__.lower()
        if name in _NAMES or name.startswith(_PREFIXES):
            return base.__name__
    if any("lr" in group and group["lr"] is None for group in optimizer.param_groups):
        return f"{type(optimizer).__name__} with lr=None"
    return None
