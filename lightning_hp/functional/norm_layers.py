"""Which layers normalise, and which parameters are theirs."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def norm_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a network's normalisation layers: SAM on these alone needs almost no memory.

    Torch's own layers are known by their class, others by a class name with ``norm`` in it (``LlamaRMSNorm``,
    ``LayerNorm2d``) if none of their parameters is a matrix, as that of a ``NormedLinear`` is.

    Args:
        module: The network.

    Returns:
        Their parameters, each once.

    Costs one walk over the modules. Where it does not help: a network without normalisation layers has none.

    Source: Mueller et al., *Normalization Layers Are All That Sharpness-Aware Minimization Needs*, 2023.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 2))
        >>> [tuple(parameter.shape) for parameter in norm_parameters(net)]
        [(3,), (3,)]

    """
    found: dict[int, nn.Parameter] = {}
    for layer in module.modules():
        parameters = list(layer.parameters(recurse=False))
        is_named = "norm" in type(layer).__name__.lower() and not any(map(_is_matrix, parameters))
        if isinstance(layer, (_NormBase, nn.GroupNorm, nn.LayerNorm)) or is_named:
            found |= {id(parameter): parameter for parameter in parameters}
    return list(found.values())


def _is_matrix(parameter: nn.Parameter) -> bool:
    """Whether it extends in more than one dimension: one weight a channel may be of shape (1, C, 1, 1)."""
    return sum(size > 1 for size in parameter.shape) > 1


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer, by its name: libraries bring their own (``LlamaRMSNorm``).

    Example:
        >>> is_norm(nn.BatchNorm2d(2)), is_norm(nn.LayerNorm(2)), is_norm(nn.Linear(2, 2))
        (True, True, False)

    """
    holds_something = any(True for _ in module.parameters(recurse=False)) or any(
        True for _ in module.buffers(recurse=False)
    )
    return holds_something and "norm" in type(module).__name__.lower()
