"""Within it a module can be evaluated at other weights; afterwards module, Trainer and random states are as before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lightning_hp.snapshot import RandomState, Snapshot, Undo
from lightning_hp.trainer import muted, no_op

_MUTED_METHODS = ("log", "log_dict", "print")


@contextmanager
def no_trace(trainer: Any, module: Any) -> Iterator[list[str]]:
    """Restores the module and the callbacks bit for bit, and the random states; nothing is logged meanwhile.

    Args:
        trainer: The Trainer.
        module: Its module.

    Yields:
        Iterators on the module, whose position cannot be restored.

    """
    with Undo() as undo:
        undo.callback(RandomState(trainer.strategy.root_device).restore)
        snapshot = Snapshot(module, callbacks=trainer.callbacks)
        undo.callback(snapshot.restore)
        undo.enter_context(muted(trainer, callbacks=[]))
        for name in _MUTED_METHODS:
            undo.callback(_restore, vars(module), name, vars(module).get(name))
            vars(module)[name] = no_op
        yield snapshot.unrestorable


@contextmanager
def same_on_all_ranks(trainer: Any, module: Any, batches: Sequence[Any]) -> Iterator[list[Any]]:
    """Within it all processes have the batches and the buffers of rank zero.

    Args:
        trainer: The Trainer.
        module: Its module, within :func:`no_trace`, which restores the buffers.
        batches: The batches of this process.

    Yields:
        The batches of rank zero, on the device of this process.

    """
    if trainer.world_size == 1:
        yield list(batches)
        return
    strategy, host = trainer.strategy, torch.device("cpu")
    common = strategy.broadcast([(strategy.batch_to_device(batch, host), size) for batch, size in batches], src=0)
    buffers = list(module.buffers())
    values = strategy.broadcast([buffer.to(host) for buffer in buffers], src=0)
    with torch.no_grad():
        for buffer, value in zip(buffers, values, strict=True):
            buffer.copy_(value)
    yield [(strategy.batch_to_device(batch), size) for batch, size in common]


def _restore(attributes: dict[str, Any], name: str, value: Any) -> None:
    if value is None:
        attributes.pop(name, None)
    else:
        attributes[name] = value
