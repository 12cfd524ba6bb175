"""What makes steps change a network less and less at a constant learning rate, as under a schedule that decays."""

from __future__ import annotations

from torch import nn
from torch.optim import Adagrad, Optimizer, RMSprop

from lightning_hp.functional.norm_layers import is_norm_layer


def has_shrinking_steps(optimizer: Optimizer) -> bool:
    """Whether the steps of an optimizer get shorter at a constant learning rate and equal gradients.

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


def has_normalised_weights(module: nn.Module) -> bool:
    """Whether a network has a normalisation layer behind weights that are trained.

    The scale of these weights does not change what the layer gives. Their gradient is orthogonal to them, so each step
    makes them longer, and the next one of the same length turns them less.

    Args:
        module: The network. Its layers are taken in the order of ``module.modules()``.

    References:
        S. Arora, Z. Li and K. Lyu, *Theoretical Analysis of Auto Rate-Tuning by Batch Normalization*, 2019.

    Example:
        >>> from torch import nn
        >>> normalised = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        >>> has_normalised_weights(normalised), has_normalised_weights(normalised[2:])
        (True, False)

    """
    trains_before = False
    for layer in module.modules():
        if is_norm_layer(layer):
            if trains_before:
                return True
        elif any(parameter.requires_grad and parameter.ndim > 1 for parameter in layer.parameters(recurse=False)):
            trains_before = True
    return False
