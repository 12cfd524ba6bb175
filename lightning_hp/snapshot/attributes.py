"""The attributes of an object, if they may be the user's state: not those of torch, Lightning or the standard library.

Every walk over objects of this package asks these two functions what an object holds.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

_OPEN_TORCH_TYPES = (nn.Module, Optimizer, LRScheduler, torch.amp.GradScaler, DataLoader, Dataset, Sampler)
_CLOSED_STDLIB = set(sys.stdlib_module_names) - {"__main__", "types", "argparse", "collections"}
_LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}


def attributes_of(thing: Any) -> dict[str, Any] | None:
    """The ``__dict__`` of an object that may hold the user's state; ``None`` for any other object.

    Modules, optimizers, schedulers, grad scalers, loaders, datasets, samplers, datamodules and objects of the user's
    own classes may hold it. Other objects of torch, Lightning and the standard library may not, nor may objects of a
    class that is derived from one of these.
    """
    if not isinstance(thing, _OPEN_TORCH_TYPES):
        packages = {base.__module__.partition(".")[0] for base in type(thing).__mro__ if base is not object}
        is_datamodule = any(base.__name__ == "LightningDataModule" for base in type(thing).__mro__)
        # From a Trainer or a logger, a user's subclass of it included, every other object of a run can be reached.
        if "torch" in packages or (packages & _LIGHTNING and not is_datamodule):
            return None
        if type(thing).__module__.partition(".")[0] in _CLOSED_STDLIB:
            return None
    try:
        attributes = object.__getattribute__(thing, "__dict__")
    except AttributeError:  # a type that is written in C
        return None
    return attributes if isinstance(attributes, dict) else None


def slots_of(thing: Any) -> dict[str, Any]:
    """The values in the ``__slots__`` of an object of a user's class; empty for any other object."""
    if type(thing).__module__.partition(".")[0] in _CLOSED_STDLIB | _LIGHTNING | {"torch", "numpy"}:
        return {}
    names = [name for base in type(thing).__mro__ for name in _as_tuple(base.__dict__.get("__slots__", ()))]
    return {name: getattr(thing, name) for name in names if name != "__weakref__" and hasattr(thing, name)}


def _as_tuple(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)
