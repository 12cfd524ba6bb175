"""Random directions in the space of the weights, normalised filter by filter.

Filter normalisation (Li et al., 2018) of a random direction d at weights w::

    d = standard normal numbers
    for each filter f of each weight with two or more dimensions:
        d_f = d_f * |w_f| / |d_f|               # a filter is a row: all weights into one channel or neuron
    d = 0 for biases and normalisation layers
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_hp.functional.checks import check_bool, check_choice, check_int
from lightning_hp.functional.sharpness.weights import Direction, check_parameters

Normalization = Literal["filter", "layer", "none"]


def random_directions(
    parameters: Iterable[Tensor],
    count: int = 2,
    *,
    normalization: Normalization = "filter",
    include_1d: bool = False,
    seed: int = 0,
) -> list[Direction]:
    """Random directions in the space of the weights, scaled like the weights.

    Args:
        parameters: The weights. They are only read.
        count: Number of directions, 1 to 1000.
        normalization: What gets the norm of the weights: ``"filter"``: each filter of a weight, which is its part
            ``weight[i]``; ``"layer"``: each weight as a whole; ``"none"``: nothing, the entries are standard normal.
        include_1d: Whether parameters with at most one dimension (biases, normalisation layers) move too. Such a
            parameter counts as one filter.
        seed: Seed of a generator of its own, >= 0.

    Returns:
        The directions, each a list of tensors with the shapes, types and devices of ``parameters``.

    Raises:
        TypeError: If an argument is of the wrong type, or a parameter is no dense tensor of floating-point numbers.
        ValueError: If a number is out of range, or there are no parameters.

    Note:
        The numbers are drawn on the CPU in float32, so they are the same on every device, and the first directions do
        not depend on ``count``. The global random state stays as it is. Two directions are not orthogonal, only nearly:
        their cosine is about 1/sqrt(number of weights). A transposed convolution stores its input channels first; its
        "filters" are those of the input. A filter of zeros does not move. With ``"filter"`` a coordinate of 1 moves
        each filter by its own norm, so pictures of networks of different scales can be compared; weights that a
        normalisation layer rescales are the reason.

    References:
        Li et al., *Visualizing the Loss Landscape of Neural Nets*, 2018.

    Example:
        >>> weight = torch.tensor([[3.0, 4.0], [0.0, 0.1]])
        >>> (direction,) = random_directions([weight, torch.ones(2)], 1)
        >>> direction[0].norm(dim=1), direction[1]
        (tensor([5.0000, 0.1000]), tensor([0., 0.]))

    """
    weights = [parameter.detach() for parameter in check_parameters(parameters)]
    count = check_int("count", count, 1, 1000)
    normalization = check_choice("normalization", normalization, get_args(Normalization))
    include_1d = check_bool("include_1d", include_1d)
    generator = torch.Generator().manual_seed(check_int("seed", seed, 0))
    directions = []
    for _ in range(count):
        drawn = normal_numbers(weights, generator)
        directions.append([_normalized(d, w, normalization, include_1d) for d, w in zip(drawn, weights, strict=True)])
    return directions


def normal_numbers(weights: Sequence[Tensor], generator: torch.Generator) -> Iterator[Tensor]:
    """Standard normal numbers, for each weight a float32 tensor of its shape on its device, drawn on the CPU."""
    for weight in weights:
        yield torch.randn(weight.shape, generator=generator, dtype=torch.float32, device="cpu").to(weight.device)


def _normalized(direction: Tensor, weight: Tensor, normalization: str, include_1d: bool) -> Tensor:
    if weight.ndim <= 1 and not include_1d:
        return torch.zeros_like(weight)
    wide = torch.promote_types(weight.dtype, torch.float32)
    direction = direction.to(wide)
    if normalization != "none":
        num_filters = weight.shape[0] if normalization == "filter" and weight.ndim > 1 else 1
        norms = torch.linalg.vector_norm(weight.to(wide).reshape(num_filters, -1), dim=1, keepdim=True)
        rows = direction.reshape(num_filters, -1)
        lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        direction = (rows * (norms / lengths.clamp_min(torch.finfo(wide).tiny))).reshape(weight.shape)
    return direction.to(weight.dtype)
