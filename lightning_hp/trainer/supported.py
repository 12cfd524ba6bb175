"""Checks whether a training is supported: its strategy, and parameters and buffers without a shape."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

# Their training can be rehearsed, repeated and restored exactly.
_STRATEGIES = frozenset({"SingleDeviceStrategy", "DDPStrategy", "ModelParallelStrategy"})

#: The strategies, for error messages.
STRATEGIES_IN_WORDS = "single device, DDP, FSDP2 through ModelParallelStrategy"


def is_supported(strategy: Any) -> bool:
    """Whether a strategy is one of these or derives from one, in either Lightning package."""
    return any(base.__name__ in _STRATEGIES for base in type(strategy).__mro__)


def uninitialized_parameters(module: nn.Module) -> list[str]:
    """Names of the parameters and buffers of lazy layers that have seen no batch yet."""
    return [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if is_lazy(tensor)]
