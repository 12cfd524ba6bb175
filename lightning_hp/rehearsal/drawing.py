"""Random numbers that a training has drawn before a rehearsal, for the iterator over its data.

A loader draws a number when its iterator is made. What asks for the length of the training in ``configure_optimizers``
makes the iterator of the first epoch there. A rehearsal makes another one, and has the samples of the training only if
the number is not drawn a second time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning_hp.snapshot import RandomState
from lightning_hp.trainer import flatten_loaders


@contextmanager
def without_drawing(loaders: Any, device: Any) -> Iterator[None]:
    """Within the ``with`` block iterators are made; the random numbers that this draws are drawn again afterwards.

    Args:
        loaders: The loaders, in any structure; those with a generator of their own draw from it.
        device: The device of the training.

    """
    generators = [getattr(loader, "generator", None) for loader in flatten_loaders(loaders)]
    states = [(generator, generator.get_state()) for generator in generators if generator is not None]
    random_state = RandomState(device)
    yield
    random_state.restore()
    for generator, state in states:
        generator.set_state(state)
