"""A classifier for Lightning: a mixin for any LightningModule, and a LightningModule that is ready to use.

Both are loaded on first use, because the mixin works without importing Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_hp.module.classifier import Classifier
    from lightning_hp.module.mixin import ClassifierMixin

__all__ = [
    "Classifier",
    "ClassifierMixin",
]

_ON_FIRST_USE = {"Classifier": "lightning_hp.module.classifier", "ClassifierMixin": "lightning_hp.module.mixin"}


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_ON_FIRST_USE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
