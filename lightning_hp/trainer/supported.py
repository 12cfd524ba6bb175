"""Checks whether a training is supported: its strategy, and parameters without a shape."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

# Their training can be rehearsed, repeated and restored exactly.
_STRATEGIES = frozenset({"SingleDeviceStrategy", "DDPStrategy", "ModelParallelStrategy"})

#: The strategies, for error messages.
STRATEGIES_IN_WORDS = "single device, DDP, FSDP2 through ModelParallelStrategy"


def is_supported(strategy: Any) -> bool:
    """Whether a strategy is one of these or derives from one, in either Lightning package."""
    return any(base.__name__ in _STRATEGIES for base in type(strategy).__mro__)


def uninitialized_parameters(module: nn.Module) -> list[str]:
    """Names of the parameters of lazy layers that have seen no batch yet."""
    return [name for name, parameter in module.named_parameters() if _is_uninitialized(parameter)]


def _is_uninitialized(parameter: object) -> bool:
    return isinstance(parameter, UninitializedParameter)
