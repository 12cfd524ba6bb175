"""The strategies whose training can be rehearsed and repeated."""

from __future__ import annotations

from typing import Any

STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy", "ModelParallelStrategy")

#: The same in words, for error messages.
STRATEGIES_IN_WORDS = "single device, DDP, FSDP2 through ModelParallelStrategy"


def is_supported(strategy: Any) -> bool:
    """Whether a strategy, or a class that it derives from, is one of these; in either Lightning package."""
    return any(base.__name__ in STRATEGIES for base in type(strategy).__mro__)
