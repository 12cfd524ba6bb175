"""What a callback of Lightning holds that may be the user's state.

A callback also holds what is not: a console with a thread that draws, the client of a service, the trial of a study
that other threads write. To restore these would disturb them. So of a callback its attributes are visited, and in them
containers, tensors, arrays, modules, and objects of classes that the user has written.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import PurePath
from threading import Thread
from typing import Any

from lightning_hp.snapshot.attributes import LIGHTNING, OPEN_TORCH_TYPES

_THIS_PACKAGE = __name__.partition(".")[0]
# Lightning's function that calls a hook of all callbacks; `callback` is its variable for the present one.
_CALLS_HOOKS = "_call_callback_hooks"
_FOLDERS_OF_PACKAGES = frozenset({"site-packages", "dist-packages"})


def is_callback(thing: Any) -> bool:
    """Whether an object is a callback of Lightning, and not one of this package, which may just be searching."""
    return _is_callback_class(type(thing))  # type: ignore[arg-type]


def attributes_of_callback(callback: Any) -> dict[str, Any] | None:
    """The attributes of a callback; ``None`` if it holds a thread that runs, which may write them at any time."""
    attributes: dict[str, Any] = vars(callback)
    return None if any(map(_holds_a_thread, list(attributes.values()))) else attributes


def running_callbacks() -> list[Any]:
    """The callbacks whose hooks have called this function: what they write meanwhile is not a training step's."""
    found: list[Any] = []
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == _CALLS_HOOKS:
            found.append(frame.f_locals.get("callback"))
        frame = frame.f_back
    return [one for one in found if is_callback(one)]


def is_opened_in_callback(thing: Any) -> bool:
    """Whether an object is visited with all it holds, where a callback holds it."""
    return _is_opened_class(type(thing))  # type: ignore[arg-type]


@lru_cache(maxsize=4096)
def _is_opened_class(cls: type) -> bool:
    if issubclass(cls, OPEN_TORCH_TYPES):
        return True
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return file is None or _FOLDERS_OF_PACKAGES.isdisjoint(PurePath(file).parts)


def _holds_a_thread(value: Any) -> bool:
    values: Iterable[Any] = (value,)
    if type(value) in (list, tuple, dict):
        values = list(value.values() if isinstance(value, dict) else value)[:100]
    return any(isinstance(one, Thread) and one.is_alive() for one in values)


@lru_cache(maxsize=4096)
def _is_callback_class(cls: type) -> bool:
    packages = [(base, base.__module__.partition(".")[0]) for base in cls.__mro__]
    is_one = any(base.__name__ == "Callback" and package in LIGHTNING for base, package in packages)
    return is_one and all(package != _THIS_PACKAGE for _, package in packages)
