"""Optimizers by the names that torch gives them, tried on one number before the training."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

# They want one group, sparse gradients, or matrices alone.
_OTHERS = ("LBFGS", "SparseAdam", "Muon")
_OWN = {"params": "the model", "lr": "`lr`", "weight_decay": "`weight_decay`"}


def optimizer_class(name: Any) -> type[Optimizer]:
    """The optimizer of ``torch.optim`` with this name, in any case.

    Raises:
        TypeError: If it is no name.
        ValueError: If torch has none of this name, or it cannot train a whole model.

    Example:
        >>> optimizer_class("adamw").__name__
        'AdamW'

    """
    kind: type[Optimizer] = by_name(
        "optimizer", name, torch.optim, Optimizer, _OTHERS, "Override `configure_optimizers` for another."
    )
    return kind


def by_name(argument: str, name: Any, module: Any, base: type, left_out: tuple[str, ...], advice: str) -> Any:
    """The subclass of ``base`` that ``module`` holds under this name, in any case."""
    if not isinstance(name, str):
        raise TypeError(f"Expected `{argument}` to be a name such as those of {module.__name__}, but got {name!r}.")
    classes = {
        key.lower(): value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base and not key.startswith("_")
    }
    for key in left_out:
        classes.pop(key.lower(), None)
    if name.lower() not in classes:
        close = difflib.get_close_matches(name.lower(), classes, n=3, cutoff=0.4) or list(classes)[:3]
        names = ", ".join(classes[key].__name__ for key in close)
        raise ValueError(
            f"Expected `{argument}` to be a name of {module.__name__}, such as {names}, but got {name!r}. {advice}"
        )
    return classes[name.lower()]


def build_optimizer(
    name: str, groups: Any, lr: float, weight_decay: float | None, kwargs: Mapping[str, Any]
) -> Optimizer:
    """The optimizer over parameter groups; ``weight_decay=None`` leaves the optimizer's own default."""
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    options: Any = {"lr": lr, **decay, **kwargs}
    return optimizer_class(name)(groups, **options)


def check_optimizer(name: Any, lr: float, weight_decay: float | None, kwargs: Mapping[str, Any]) -> Optimizer:
    """Builds the optimizer for one number, to see that it takes its arguments.

    Returns:
        That optimizer.

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If the optimizer does not know or take an argument.

    """
    kind = optimizer_class(name).__name__
    for key, instead in _OWN.items():
        if key in kwargs:
            raise ValueError(
                f"Expected `optimizer_kwargs` without {key!r}, which is {instead}, but got {dict(kwargs)}."
            )
    try:
        return build_optimizer(name, [nn.Parameter(torch.zeros(1, device="cpu"))], lr, weight_decay, kwargs)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"Expected `weight_decay` and `optimizer_kwargs` to be arguments that {kind} takes, but got "
            f"{weight_decay!r} and {dict(kwargs)}: {error}"
        ) from error


def decays(optimizer: Optimizer) -> bool:
    """Whether its weight decay is on."""
    return bool(optimizer.defaults.get("weight_decay", 0.0))
