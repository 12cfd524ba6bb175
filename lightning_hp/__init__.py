"""Hyperparameters for Lightning, chosen by rehearsing the real training and putting everything back.

``import lightning_hp.functional as hpf`` gives the maths alone: it loads no Lightning and no torch, which is why the
names that need them are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_hp import functional
from lightning_hp.results import LRFindResult

if TYPE_CHECKING:
    from lightning_hp.callbacks import LRFinder
    from lightning_hp.nn import Backbone, ClassifierHead, InferenceSpeed

__version__ = "0.1.0"

__all__ = ["Backbone", "ClassifierHead", "InferenceSpeed", "LRFindResult", "LRFinder", "functional"]

_NEEDS_LIGHTNING = {"LRFinder": "lightning_hp.callbacks"}
_NEEDS_TORCH = dict.fromkeys(("Backbone", "ClassifierHead", "InferenceSpeed"), "lightning_hp.nn")


def __getattr__(name: str) -> Any:
    rooms = {**_NEEDS_LIGHTNING, **_NEEDS_TORCH}
    if name not in rooms:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(rooms[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
