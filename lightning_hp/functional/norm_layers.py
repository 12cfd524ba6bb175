"""Which layers of a network are normalisation layers, and which parameters belong to them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from lightning_hp.functional.checks import check_instance

# `_NormBase` is the base of all batch and instance norms.
_TORCH_NORM_LAYERS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.CrossMapLRN2d)
_WEIGHTED_SUMS = (nn.Linear, nn.Bilinear, _ConvNd, nn.Embedding, nn.EmbeddingBag)

# "Norm" as a word: in `LlamaRMSNorm`, `LayerNorm2d`, `RMSNormGated` and `BatchNormalization`, but not in
# `NormedLinear`, `NormalizedEmbedding` and `NormalNoise`. Weight norm and spectral norm act on weights, not on inputs.
_NORM_WORD = re.compile(r"(?i:(?<!weight)(?<!spectral)norm(?:ali[sz]ation)?)(?![a-z])")


def is_norm_layer(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer.

    It is one by its class: a batch, instance, group, layer, RMS or local response norm of torch, or a subclass. Layers
    of other libraries are recognised by their state and their name. Such a layer is no linear layer, convolution or
    embedding, holds no matrix and no submodule with parameters, and either

    - keeps running statistics (see `has_running_statistics`), or
    - holds a parameter or buffer, and its class or a base class has the word "Norm" in its name.

    Args:
        module: A single layer. A container of layers is not a normalisation layer.

    Returns:
        Whether it normalises.

    Raises:
        TypeError: If ``module`` is no module.

    Note:
        A layer of another library is missed if its class has another name and keeps no statistics, or if its weight is
        a matrix, as that of a norm with separate weights for each attention head.

    Example:
        >>> is_norm_layer(nn.BatchNorm2d(2)), is_norm_layer(nn.RMSNorm(2)), is_norm_layer(nn.Linear(2, 2))
        (True, True, False)

    """
    check_instance("module", module, nn.Module, "a module")
    if isinstance(module, _TORCH_NORM_LAYERS):
        return True
    parameters = list(module.parameters(recurse=False))
    if isinstance(module, _WEIGHTED_SUMS) or any(map(_is_matrix, parameters)):
        return False
    if any(True for child in module.children() for _ in child.parameters()):
        return False
    holds_tensors = bool(parameters) or any(True for _ in module.buffers(recurse=False))
    return has_running_statistics(module) or (holds_tensors and _is_named_norm(type(module)))


def has_running_statistics(module: nn.Module) -> bool:
    """Whether a layer updates running statistics of its inputs in training mode and uses them in evaluation mode.

    Args:
        module: A single layer; submodules are not considered.

    Returns:
        Whether it has a buffer ``running_mean`` or ``running_var``, as batch norm layers do.

    Raises:
        TypeError: If ``module`` is no module.

    Example:
        >>> has_running_statistics(nn.BatchNorm1d(2)), has_running_statistics(nn.LayerNorm(2))
        (True, False)

    """
    check_instance("module", module, nn.Module, "a module")
    return any(name in ("running_mean", "running_var") for name, _ in module.named_buffers(recurse=False))


def norm_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The normalisation layers of a network, each once, with their paths.

    Args:
        module: The network.

    Returns:
        Pairs of path and layer, in the order of ``named_modules``.

    Raises:
        TypeError: If ``module`` is no module.

    Example:
        >>> [path for path, _ in norm_layers(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()))]
        ['1']

    """
    check_instance("module", module, nn.Module, "a module")
    return ((path, layer) for path, layer in module.named_modules() if is_norm_layer(layer))


def norm_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a network's normalisation layers; SAM on these alone needs almost no memory.

    Args:
        module: The network.

    Returns:
        The parameters of all layers that `is_norm_layer` accepts, each once. Empty for a network without such layers.

    Raises:
        TypeError: If ``module`` is no module.

    References:
        Mueller et al., *Normalization Layers Are All That Sharpness-Aware Minimization Needs*, 2023.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 2))
        >>> [tuple(parameter.shape) for parameter in norm_parameters(net)]
        [(3,), (3,)]

    """
    return list(dict.fromkeys(p for _, layer in norm_layers(module) for p in layer.parameters(recurse=False)))


def _is_named_norm(kind: type[nn.Module]) -> bool:
    return any(_NORM_WORD.search(base.__name__) for base in kind.__mro__)


def _is_matrix(parameter: Tensor) -> bool:
    """Whether more than one axis is longer than 1; one weight for each channel may have the shape (1, C, 1, 1)."""
    return not nn.parameter.is_lazy(parameter) and sum(size > 1 for size in parameter.shape) > 1
