"""Hyperparameters for Lightning, chosen by rehearsing the real training and putting everything back.

``import lightning_hp.functional as hpf`` gives the maths alone: it loads no Lightning, which is why the names that need
Lightning are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_hp import functional
from lightning_hp.results import LRFindResult

if TYPE_CHECKING:
    from lightning_hp.callbacks import SAM, LRFinder

__version__ = "0.1.0"

__all__ = ["LRFindResult", "LRFinder", "SAM", "functional"]  # noqa: RUF022 - plain order; ruff takes SAM for a constant

_NEEDS_LIGHTNING = {"LRFinder": "lightning_hp.callbacks", "SAM": "lightning_hp.callbacks"}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_LIGHTNING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_NEEDS_LIGHTNING[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
