"""Optimizers by their names in ``torch.optim``, tried on one parameter before the training."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_hp.functional.checks import check_str
from lightning_hp.module.annotated import check_annotated

# They need a single group, sparse gradients, or only matrices.
_EXCLUDED = ("LBFGS", "SparseAdam", "Muon")
# Arguments of the optimizer that come from elsewhere, and from where.
_RESERVED = {"params": "the parameters of the model", "lr": "`lr`", "weight_decay": "`weight_decay`"}


def optimizer_class(name: Any) -> type[Optimizer]:
    """The optimizer of ``torch.optim`` with this name, in upper or lower case.

    Raises:
        TypeError: If the name is no string.
        ValueError: If torch has no such optimizer, or it cannot train a whole model.

    Example:
        >>> optimizer_class("adamw").__name__
        'AdamW'

    """
    kind: type[Optimizer] = class_by_name("optimizer", name, torch.optim, Optimizer, _EXCLUDED)
    return kind


def class_by_name(argument: str, name: Any, module: Any, base: type, excluded: tuple[str, ...]) -> Any:
    """The subclass of ``base`` in ``module`` with this name, in upper or lower case.

    Args:
        argument: The argument that holds the name, for messages.
        name: The name of the class.
        module: Where to search.
        base: The base class.
        excluded: Names of classes that are not allowed.

    Raises:
        TypeError: If the name is no string.
        ValueError: If there is no such class.

    """
    name = check_str(argument, name, what=f"a name of {module.__name__}")
    classes = {
        key.lower(): value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base and not key.startswith("_")
    }
    for key in excluded:
        classes.pop(key.lower(), None)
    if name.lower() not in classes:
        close = difflib.get_close_matches(name.lower(), classes, n=3, cutoff=0.4) or list(classes)[:3]
        names = ", ".join(classes[key].__name__ for key in close)
        raise ValueError(
            f"Expected `{argument}` to be a name of {module.__name__}, such as {names}, but got {name!r}. Override "
            "`configure_optimizers` for another."
        )
    return classes[name.lower()]


def build_optimizer(
    name: str, groups: Any, lr: float, weight_decay: float | None, options: Mapping[str, Any]
) -> Optimizer:
    """The optimizer of these parameter groups; ``weight_decay=None`` keeps the optimizer's own default."""
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    arguments: Any = {"lr": lr, **decay, **options}
    return optimizer_class(name)(groups, **arguments)


def check_optimizer(name: Any, lr: float, weight_decay: float | None, options: Mapping[str, Any]) -> Optimizer:
    """Builds the optimizer of a single parameter, to check that it takes its arguments.

    Args:
        name: The name of the optimizer.
        lr: The learning rate, > 0.
        weight_decay: Weight decay, or ``None``.
        options: Its other arguments.

    Returns:
        The optimizer of that parameter.

    Raises:
        TypeError: If the name is no string, or an option is of another kind than the optimizer says.
        ValueError: If the optimizer does not know or accept an argument.

    """
    kind = optimizer_class(name).__name__
    check_annotated("optimizer_options", optimizer_class(name), options)
    for key, origin in _RESERVED.items():
        if key in options:
            raise ValueError(
                f"Expected `optimizer_options` without {key!r}, which is {origin}, but got {dict(options)}."
            )
    try:
        return build_optimizer(name, [nn.Parameter(torch.zeros(1, device="cpu"))], lr, weight_decay, options)
    except Exception as error:
        raise ValueError(
            f"Expected `weight_decay` and `optimizer_options` to be arguments that {kind} takes, but got "
            f"{weight_decay!r} and {dict(options)}: {error}"
        ) from error


def has_weight_decay(optimizer: Optimizer) -> bool:
    """Whether the optimizer applies weight decay."""
    return bool(optimizer.defaults.get("weight_decay", 0.0))
