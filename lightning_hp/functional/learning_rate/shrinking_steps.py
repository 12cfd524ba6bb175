"""Optimizers whose steps get shorter by themselves, at a constant learning rate and equal gradients."""

from __future__ import annotations

from torch.optim import Adagrad, Optimizer, RMSprop


def has_shrinking_steps(optimizer: Optimizer) -> bool:
    """Whether the steps of an optimizer get shorter at a constant learning rate, as under a schedule that decays.

    The n-th step of Adagrad is shorter than its first by the square root of n. RMSprop divides by a running mean of
    squared gradients that begins at zero, without Adam's correction for that: its first steps are up to
    ``1 / sqrt(1 - alpha)`` times as long as later ones, ten times by default.

    Args:
        optimizer: Any optimizer. Adagrad and RMSprop of PyTorch, and classes that inherit from them, are recognised.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> has_shrinking_steps(torch.optim.RMSprop([weight])), has_shrinking_steps(torch.optim.Adam([weight]))
        (True, False)

    """
    return isinstance(optimizer, Adagrad | RMSprop)
