"""What makes steps longer or shorter at a constant learning rate, as a schedule that climbs or decays does."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import Adagrad, Optimizer, RAdam, RMSprop

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


def own_warm_up(optimizer: Optimizer, step: int) -> float:
    """Factor by which an optimizer itself shortens one of its first steps, from 0 to 1.

    RAdam lengthens its steps over some thousands of them: at its default betas to a quarter of Adam's in step 130, to
    two thirds in step 1000.

    Args:
        optimizer: Any optimizer. RAdam of PyTorch, and classes that inherit from it, are recognised, by the betas of
            their first group.
        step: The number of the step, >= 1.

    Returns:
        The factor; 1 for any other optimizer. 0 for the first steps of RAdam (five at its default betas), which are no
        steps of Adam.

    References:
        L. Liu et al., *On the Variance of the Adaptive Learning Rate and Beyond*, 2020.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> [round(own_warm_up(torch.optim.RAdam([weight]), step), 3) for step in (5, 130, 1000, 10_000)]
        [0.0, 0.247, 0.645, 1.0]

    """
    if not isinstance(optimizer, RAdam):
        return 1.0
    beta = float(optimizer.param_groups[0]["betas"][1])
    longest = 2 / (1 - beta) - 1  # of the averages that the optimizer divides by, in steps
    if longest <= 5:
        return 1.0  # no step ever divides by them
    length = longest - 2 * step * beta**step / (1 - beta**step)
    if length <= 5:
        return 0.0
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))


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
