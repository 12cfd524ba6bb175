"""What a strategy builds on the parameters that are trained, built anew when others are trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

_BUILT_FOR = "_lightning_hp_built_for"


def note_trained(trainer: Any) -> None:
    """Remembers that DDP, as it is now, exchanges the gradients of the parameters that require one now."""
    ddp = trainer.strategy.model
    if isinstance(ddp, DistributedDataParallel) and not hasattr(ddp, _BUILT_FOR):
        setattr(ddp, _BUILT_FOR, _trained(ddp.module))


def exchange_gradients_of_trained(trainer: Any) -> None:
    """Makes DDP exchange the gradients of exactly the parameters that require one now.

    DDP decides that once, when it is built. A parameter that is unfrozen later would never be exchanged, and the
    processes would drift apart without an error; one that is frozen later would be waited for in vain. So it is built
    anew, by the strategy and with the same options; on every process, since that is a collective. Buffers stay each
    process's own. Without DDP nothing has to be done.
    """
    ddp = trainer.strategy.model
    if not isinstance(ddp, DistributedDataParallel) or getattr(ddp, _BUILT_FOR, None) == _trained(ddp.module):
        return
    module: nn.Module = ddp.module
    trainer.strategy.model = module
    del ddp  # before the next one is built: with it go its buckets, as large as the gradients
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    trainer.strategy.configure_ddp()
    with torch.no_grad():
        for buffer, own in buffers:
            buffer.copy_(own)
    setattr(trainer.strategy.model, _BUILT_FOR, _trained(module))


def reshard(module: nn.Module) -> None:
    """Back to the shards: between forward and backward, or after a forward pass alone, FSDP2 holds gathered weights."""
    for child in module.modules():
        back = getattr(child, "reshard", None)
        if callable(back) and hasattr(child, "unshard"):
            back()


def _trained(module: nn.Module) -> tuple[bool, ...]:
    return tuple(parameter.requires_grad for parameter in module.parameters())
