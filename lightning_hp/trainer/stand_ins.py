"""What stands in a Trainer for callbacks and a profiler that must not act: of the same class, readable, and inert.

A module, a callback or a thread may look at any time for what the user has put into the Trainer: a step reads
``trainer.checkpoint_callback.best_model_path``, and the thread that draws Rich's progress bar asserts that
``trainer.progress_bar_callback`` is one.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import Any

import numpy as np
from torch import Tensor

_HOOKS_WITHOUT_PREFIX = frozenset({"setup", "teardown", "load_state_dict"})


def no_op(*args: Any, **kwargs: Any) -> None:
    """Does nothing; replaces a method that must not act."""


def is_hook(name: str) -> bool:
    """Whether Lightning calls a method of this name of a callback to let it act."""
    return name.startswith("on_") or name in _HOOKS_WITHOUT_PREFIX


class StandIn:
    """An object that ``isinstance`` takes for an instance of another object's class, and ``==`` for that object.

    So a step finds a callback of which it holds a reference in ``trainer.callbacks``.

    Args:
        original: The other object.

    """

    __slots__ = ("__wrapped__",)  # not in `__dict__`, which holds only what was written into this object

    def __init__(self, original: Any) -> None:
        self.__wrapped__ = original

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self.__wrapped__)

    def __eq__(self, other: object) -> bool:
        return _original_of(other) is self.__wrapped__

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    def __getattr__(self, name: str) -> Any:
        if name.endswith("__"):  # a protocol that is not implemented here must stay unknown
            raise AttributeError(name)
        return self._read(self.__wrapped__, name)

    def _read(self, original: Any, name: str) -> Any:
        """The value of an attribute that this object does not have itself."""
        raise NotImplementedError


class MutedCallback(StandIn):
    """Stands for a callback that does not act: its hooks do nothing, and its attributes can be read.

    What is written stays here: attributes that are set, and items of built-in containers, of arrays and of tensors
    without a gradient. Methods that are no hooks run, and read and write this object. Other objects that the callback
    holds, such as a metric, are the callback's own.

    Args:
        callback: The callback.

    Example:
        >>> from pytorch_lightning.callbacks import EarlyStopping
        >>> stopping = EarlyStopping("val_loss", patience=5)
        >>> muted = MutedCallback(stopping)
        >>> isinstance(muted, EarlyStopping), muted.patience, muted.on_train_start(None, None) is None
        (True, 5, True)
        >>> muted.patience = 1
        >>> stopping.patience
        5

    """

    def _read(self, original: Any, name: str) -> Any:
        value = getattr(original, name)
        if callable(value):
            if is_hook(name):
                return no_op
            is_own = isinstance(value, MethodType) and value.__self__ is original
            return MethodType(value.__func__, self) if is_own else value
        if isinstance(value, (list, dict, set, deque, np.ndarray)):
            vars(self)[name] = value = copy.copy(value)  # a step may write into it
        elif isinstance(value, Tensor) and not value.requires_grad:
            vars(self)[name] = value = value.clone()
        return value


class MutedProfiler(StandIn):
    """Stands for a profiler: its methods do nothing, and its attributes can be read.

    Args:
        profiler: The user's profiler.

    Example:
        >>> from pytorch_lightning.profilers import SimpleProfiler
        >>> profiler = SimpleProfiler()
        >>> muted = MutedProfiler(profiler)
        >>> with muted.profile("a step"):
        ...     pass
        >>> isinstance(muted, SimpleProfiler), dict(profiler.recorded_durations)
        (True, {})

    """

    def profile(self, action_name: str) -> AbstractContextManager[str]:
        """A context that measures nothing."""
        return nullcontext(action_name)

    def _read(self, original: Any, name: str) -> Any:
        value = getattr(original, name)
        return no_op if callable(value) else value


def with_stand_ins(callbacks: Sequence[Any], acting: Sequence[Any]) -> list[Any]:
    """The callbacks of a Trainer, in their order, of which only some act.

    Args:
        callbacks: The Trainer's callbacks.
        acting: Those that act, or what stands for them, and others that the Trainer does not have: they come last.

    """
    ones = {id(_original_of(one)): one for one in acting}
    listed = [ones.pop(id(_original_of(callback)), None) or _muted(callback) for callback in callbacks]
    return [*listed, *ones.values()]


def written_into_stand_ins(trainer: Any) -> list[dict[str, Any]]:
    """What was written into each stand-in among the callbacks of a Trainer, by the names of the attributes."""
    return [vars(callback) for callback in trainer.callbacks if issubclass(type(callback), MutedCallback)]


def _original_of(callback: Any) -> Any:
    return callback.__wrapped__ if issubclass(type(callback), StandIn) else callback


def _muted(callback: Any) -> Any:
    return callback if issubclass(type(callback), MutedCallback) else MutedCallback(callback)
