"""Optimizers that find their step size themselves: nothing for a learning-rate finder to do."""

from __future__ import annotations

from torch.optim import Optimizer

# Families by the beginning of a class name, which also covers their variants (DAdaptAdam, ProdigyPlusScheduleFree).
_FAMILIES = ("prodigy", "dadapt", "mechanic", "mechanized")
_NAMES = ("dog", "ldog")


def is_parameter_free(optimizer: Optimizer) -> str | None:
    """Tells whether an optimizer finds its own step size, so that its ``lr`` is only a factor to leave near 1.

    Known are Prodigy, the D-Adaptation family, DoG and LDoG, Mechanic, and any optimizer whose groups have
    ``lr=None`` (Adafactor with ``relative_step``). ScheduleFree is not one: it replaces the schedule, not the rate.

    Args:
        optimizer: Any optimizer; recognised by the names of its class and base classes.

    Returns:
        The name to say in a sentence, or ``None`` for an optimizer with a learning rate.

    Source: Prodigy: Mishchenko & Defazio, 2023. D-Adaptation: Defazio & Mishchenko, 2023. DoG: Ivgi et al., 2023.
    Mechanic: Cutkosky et al., 2023.

    Example:
        >>> import torch
        >>> class Prodigy(torch.optim.SGD):
        ...     pass
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> is_parameter_free(Prodigy([weight], lr=1.0))
        'Prodigy'
        >>> is_parameter_free(torch.optim.SGD([weight], lr=0.1)) is None
        True

    """
    for base in type(optimizer).__mro__:
        name = base.__name__.lower()
        if name in _NAMES or name.startswith(_FAMILIES):
            return base.__name__
    if any("lr" in group and group["lr"] is None for group in optimizer.param_groups):
        return f"{type(optimizer).__name__} with lr=None"
    return None
