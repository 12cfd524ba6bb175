"""The attributes of an object, if they may be the user's state: not those of torch, Lightning or the standard library.

Every walk over objects of this package asks these two functions what an object holds.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

#: Objects of torch that are visited with all they hold.
OPEN_TORCH_TYPES = (nn.Module, Optimizer, LRScheduler, torch.amp.GradScaler, DataLoader, Dataset, Sampler)
#: The packages that a class of Lightning is defined in.
LIGHTNING = frozenset({"lightning", "pytorch_lightning", "lightning_fabric"})
_CLOSED_STDLIB = frozenset(sys.stdlib_module_names) - {"__main__", "types", "argparse", "collections"}
_IS_MADE_BY_PYTHON = 1 << 9  # CPython's flag of classes that were made at run time, not compiled


def attributes_of(thing: Any) -> dict[str, Any] | None:
    """The ``__dict__`` of an object that may hold the user's state; ``None`` for any other object.

    Modules, optimizers, schedulers, grad scalers, loaders, datasets, samplers, datamodules and objects of the user's
    own classes may hold it. Other objects of torch, Lightning and the standard library may not, nor may objects of a
    class that is derived from one of torch or Lightning.
    """
    if not _may_have_attributes(type(thing)):  # type: ignore[arg-type]
        return None
    try:
        attributes = object.__getattribute__(thing, "__dict__")
    except AttributeError:  # a type that is written in C
        return None
    return attributes if isinstance(attributes, dict) else None


def slots_of(thing: Any) -> dict[str, Any]:
    """The values in the ``__slots__`` of an object of a user's class; empty for any other object."""
    return {name: getattr(thing, name) for name in _slot_names(type(thing)) if hasattr(thing, name)}  # type: ignore[arg-type]


@lru_cache(maxsize=4096)
def _may_have_attributes(cls: type) -> bool:
    if issubclass(cls, OPEN_TORCH_TYPES):
        return True
    is_datamodule = any(base.__name__ == "LightningDataModule" for base in cls.__mro__)
    # From a Trainer or a logger, a user's subclass of it included, every other object of a run can be reached.
    closed = {"torch"} if is_datamodule else {"torch"} | LIGHTNING
    return not any(_is_defined_in(base, closed) for base in cls.__mro__) and not _is_of(cls, _CLOSED_STDLIB)


@lru_cache(maxsize=4096)
def _slot_names(cls: type) -> tuple[str, ...]:
    if _is_of(cls, _CLOSED_STDLIB | LIGHTNING | {"torch", "numpy"}):
        return ()
    names = [name for base in cls.__mro__ for name in _as_tuple(base.__dict__.get("__slots__", ()))]
    return tuple(name for name in names if name not in ("__weakref__", "__dict__"))


def _is_of(cls: type, packages: frozenset[str]) -> bool:
    """Whether a class belongs to one of these packages.

    ``__module__`` alone does not tell. A class that is made at run time has the name of the module whose code made it:
    ``abc`` or ``types`` for a user's class. What it is derived from tells then.
    """
    for base in cls.__mro__[:-1]:
        if base.__module__.partition(".")[0] not in packages:
            return False
        if _is_defined_in(base, packages):
            return True
    return not cls.__flags__ & _IS_MADE_BY_PYTHON


def _is_defined_in(cls: type, packages: frozenset[str] | set[str]) -> bool:
    """Whether one of these packages has a class under its module and name, or has made it in a function."""
    if cls.__module__.partition(".")[0] not in packages:
        return False
    if "<locals>" in cls.__qualname__:
        return True
    found: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is cls


def _as_tuple(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)
