"""The state of random number generators, saved and restored."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch


class RandomState:
    """The state of the global random number generators of Python, NumPy and torch (CPU and ``device``).

    Args:
        device: The accelerator that the training runs on, if any: the state of its generator is saved too.

    Example:
        >>> state = RandomState()
        >>> first = torch.rand(2)
        >>> state.restore()
        >>> torch.equal(first, torch.rand(2))
        True

    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()
        self._torch = torch.get_rng_state()
        self._device = device if device is not None and device.type not in ("cpu", "meta") else None
        if self._device is not None:
            self._device_state = torch.get_device_module(self._device).get_rng_state(self._device)

    def restore(self) -> None:
        """Restores the state of all these generators. Can be called any number of times."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._device is not None:
            torch.get_device_module(self._device).set_rng_state(self._device_state, self._device)


def undo_of_generator(thing: Any) -> Callable[[], Any] | None:
    """A function that restores the present state of a random number generator; ``None`` for any other object."""
    if isinstance(thing, torch.Generator):
        return partial(thing.set_state, thing.get_state())
    if isinstance(thing, random.Random):
        return partial(thing.setstate, thing.getstate())
    if isinstance(thing, np.random.RandomState):
        return partial(thing.set_state, thing.get_state())
    if isinstance(thing, np.random.Generator):
        return partial(setattr, thing.bit_generator, "state", thing.bit_generator.state)
    return None
