"""Which parameters of a model get no weight decay."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from torch import nn

from lightning_hp.functional.norm_layers import norm_parameters


def undecayed_parameters(module: nn.Module) -> set[nn.Parameter]:
    """The parameters of a model that get no weight decay.

    These are: the parameters of normalisation layers; biases; all parameters with at most one axis; tokens and tables
    of positions that every sample gets (the first axis is 1, and the name is not that of a weight), such as
    ``cls_token`` and ``pos_embed``; and what a part of the model names itself, by the method ``no_weight_decay()`` of
    timm, which returns names or patterns with ``*`` relative to that part, or by an attribute ``_no_weight_decay`` of
    the parameter, as state-space models have it.

    Args:
        module: The model.

    Returns:
        The parameters.

    Raises:
        TypeError: If a ``no_weight_decay()`` returns anything but names.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 2)
        >>> model.cls_token = nn.Parameter(torch.zeros(1, 1, 2))
        >>> free = undecayed_parameters(model)
        >>> [name for name, parameter in model.named_parameters() if parameter in free]
        ['bias', 'cls_token']

    """
    found = set(norm_parameters(module))
    named_by_parts = set(_named_by_parts(module))
    for name, parameter in module.named_parameters(remove_duplicate=False):
        last = name.rpartition(".")[2]
        is_token = parameter.shape[:1] == (1,) and "weight" not in last
        is_marked = getattr(parameter, "_no_weight_decay", False)
        if parameter.ndim <= 1 or "bias" in last or is_token or is_marked or name in named_by_parts:
            found.add(parameter)
    return found


def _named_by_parts(module: nn.Module) -> Iterator[str]:
    """The names in the whole model of the parameters that its parts name in ``no_weight_decay()``."""
    for path, part in module.named_modules():
        method = getattr(part, "no_weight_decay", None)
        if not callable(method):
            continue
        patterns = list(method())
        if not all(isinstance(pattern, str) for pattern in patterns):
            raise TypeError(
                f"Expected `no_weight_decay()` of {type(part).__name__} to return names of parameters, but got "
                f"{patterns!r}."
            )
        prefix = f"{path}." if path else ""
        for name, _ in part.named_parameters(remove_duplicate=False):
            if any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns):
                yield f"{prefix}{name}"
