"""Sharpness at a stated radius: how much the loss rises in a ball around the weights.

::

    u = 0
    repeat `steps` times:                       # the worst direction, by projected gradient ascent
        g = gradient of L at w + T u
        u = u + 2.5 * radius / steps * T g / |T g|
        u = u * min(1, radius / |u|)            # back into the ball
    rise = max of L(w + T u) - L(w)             # over all steps

With one step this is the sharpness of SAM: T u = radius * T^2 g / |T g|. T is 1, or with ``adaptive`` |w| + eta for
weights of two and more dimensions (ASAM). In random directions u is uniform on the sphere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_hp.functional.checks import check_bool, check_factor, check_int
from lightning_hp.functional.gradients import total_norm
from lightning_hp.functional.sharpness.directions import normal_numbers
from lightning_hp.functional.sharpness.hessian import gradient_of
from lightning_hp.functional.sharpness.perturbation import adaptive_scale
from lightning_hp.functional.sharpness.weights import (
    Direction,
    Loss,
    Losses,
    RandomStates,
    check_loss,
    check_parameters,
    copy_into,
    data_of,
    losses_at,
    parts_of,
    restore,
    value_of,
)

# The steps together reach this many radii, so that the ascent can turn on the sphere; with one step it is clipped to 1.
_REACH = 2.5


@dataclass(frozen=True)
class RandomRise:
    """How much the loss rises in random directions, from :func:`random_rise`.

    Attributes:
        mean: The mean rise.
        worst: The largest rise.
        rises: The rise of each direction, shape ``(num_samples,)``.

    """

    mean: float
    worst: float
    rises: NDArray[np.float64] = field(repr=False)


def ascent_rise(
    loss: Loss,
    parameters: Iterable[Tensor],
    radius: float,
    *,
    steps: int = 1,
    adaptive: bool = False,
    eta: float = 0.01,
) -> float:
    """How much the loss rises within a radius in the worst direction that gradient ascent finds.

    Args:
        loss: A function without arguments that returns the loss at the present weights, a tensor of one number, with
            its graph; see :class:`BatchLoss`. If it has a method ``parts``, as that class has, gradients are summed
            part by part.
        parameters: The weights w, which require a gradient, move in place and are restored. Their ``.grad`` is neither
            read nor written.
        radius: The radius, > 0, in the unit of the weights (with ``adaptive`` relative to them), as SAM's ``rho``.
        steps: Number of gradients, 1 to 1000. With one it is SAM's sharpness L(w + e(w)) - L(w).
        adaptive: Whether the ball is scaled by the weights, as in ASAM.
        eta: Added to the absolute value of each weight in that scale, >= 0.

    Returns:
        The largest rise among the points of the ascent, less than 0 if the loss fell at all of them. NaN if a loss is
        NaN.

    Raises:
        TypeError: If an argument is of the wrong type, or ``loss`` returns no number.
        ValueError: If a number is out of range, a parameter requires no gradient, or ``loss`` depends on none of them.

    Note:
        Costs ``steps`` forward and backward passes, one forward pass, and memory for a copy of the weights, u and a
        gradient. Weights and torch's random state are restored bit for bit, also after an error.

    References:
        Foret et al., *Sharpness-Aware Minimization for Efficiently Improving Generalization*, 2021. Kwon et al.,
        *ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural Networks*, 2021.

    Example:
        >>> w = torch.tensor([1.0, 0.0], requires_grad=True)
        >>> round(ascent_rise(lambda: (w**2).sum(), [w], 0.5), 6)
        1.25

    """
    loss, weights = check_loss(loss), check_parameters(parameters, differentiable=True)
    radius, eta = check_factor("radius", radius, above=0), check_factor("eta", eta, minimum=0)
    steps, adaptive = check_int("steps", steps, 1, 1000), check_bool("adaptive", adaptive)

    data = data_of(weights)
    with torch.no_grad():
        copies = [weight.clone() for weight in data]
        scales = [adaptive_scale(weight, eta) for weight in data] if adaptive else []
        moved = [torch.zeros_like(weight) for weight in data]  # u
    state, losses = RandomStates(weights), Losses(steps + 1, data[0].device)
    try:
        for _ in range(steps):
            value, gradient = _value_and_gradient(loss, weights, state)
            losses.append(value)
            with torch.no_grad():
                _climb(moved, gradient, scales, radius, _REACH * radius / steps)
                torch._foreach_copy_(data, copies)
                torch._foreach_add_(data, [u * t for u, t in zip(moved, scales, strict=True)] if scales else moved)
            del gradient
        state.restore()
        with torch.inference_mode():
            torch.clear_autocast_cache()
            losses.append(value_of(loss))
    finally:
        restore(data, copies, state)
    start, *others = losses.read().tolist()
    return float(np.max(others) - start)


def random_rise(
    loss: Loss,
    parameters: Iterable[Tensor],
    radius: float,
    *,
    num_samples: int = 10,
    adaptive: bool = False,
    eta: float = 0.01,
    seed: int = 0,
) -> RandomRise:
    """How much the loss rises at a radius in random directions.

    Args:
        loss: A function without arguments that returns the loss at the present weights, a tensor of one number; see
            :class:`BatchLoss`.
        parameters: The weights w, which move in place and are restored.
        radius: The radius, > 0, in the unit of the weights (with ``adaptive`` relative to them).
        num_samples: Number of directions, 1 to 100,000.
        adaptive: Whether the ball is scaled by the weights, as in ASAM.
        eta: Added to the absolute value of each weight in that scale, >= 0.
        seed: Seed of a generator of its own, >= 0. The same seed gives the same directions at every radius.

    Returns:
        The mean and the largest rise.

    Raises:
        TypeError: If an argument is of the wrong type, or ``loss`` returns no number.
        ValueError: If a number is out of range.

    Note:
        Costs ``num_samples`` + 1 forward passes and memory for a copy of the weights and one direction. In many
        dimensions a random direction hardly meets the worst one: at the same radius this rise is far below that of
        :func:`ascent_rise`. Weights and torch's random state are restored bit for bit, also after an error.

    Example:
        >>> w = torch.tensor([0.0, 0.0])
        >>> rise = random_rise(lambda: (w**2).sum(), [w], 0.5)
        >>> round(rise.mean, 6), round(rise.worst, 6)
        (0.25, 0.25)

    """
    loss, weights = check_loss(loss), check_parameters(parameters)
    radius, eta = check_factor("radius", radius, above=0), check_factor("eta", eta, minimum=0)
    num_samples, adaptive = check_int("num_samples", num_samples, 1, 100_000), check_bool("adaptive", adaptive)
    generator = torch.Generator().manual_seed(check_int("seed", seed, 0))

    def write(data: list[Tensor], copies: list[Tensor], number: int) -> None:
        copy_into(data, copies)
        if not number:
            return
        direction = list(normal_numbers(data, generator))
        scale = radius / total_norm(direction)
        torch._foreach_mul_(direction, scale)
        if adaptive:
            torch._foreach_mul_(direction, [adaptive_scale(weight, eta) for weight in data])
        torch._foreach_add_(data, direction)

    start, *losses = losses_at(loss, weights, write, range(num_samples + 1)).tolist()
    rises = np.array(losses) - start
    return RandomRise(float(rises.mean()), float(rises.max()), rises)


def _value_and_gradient(loss: Loss, weights: Sequence[Tensor], state: RandomStates) -> tuple[Tensor, list[Tensor]]:
    values: list[Tensor] = []
    total = [torch.zeros_like(weight, requires_grad=False) for weight in weights]
    for part in parts_of(loss):
        state.restore()
        torch.clear_autocast_cache()
        with torch.inference_mode(False), torch.enable_grad():
            value, gradient = gradient_of(part, weights)
        values.append(value)
        torch._foreach_add_(total, gradient)  # torch may return one tensor for several weights: never write to it
    return torch.stack(values).sum(), total


def _climb(moved: Direction, gradient: Direction, scales: Direction, radius: float, step: float) -> None:
    """One step of u, and back into the ball."""
    if scales:
        torch._foreach_mul_(gradient, scales)
    norm = total_norm(gradient)
    torch._foreach_mul_(gradient, torch.where(norm == 0, 0, step / norm))
    torch._foreach_add_(moved, gradient)
    torch._foreach_mul_(moved, (radius / total_norm(moved)).clamp(max=1))
