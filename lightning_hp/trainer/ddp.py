"""Updates DDP and FSDP2 when other parameters of a module are trained than before."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

_BUILT_FOR = "_lightning_hp_built_for"


def note_trained(trainer: Any) -> None:
    """Records which parameters require a gradient now: those whose gradients this DDP exchanges."""
    ddp = trainer.strategy.model
    if isinstance(ddp, DistributedDataParallel) and not hasattr(ddp, _BUILT_FOR):
        setattr(ddp, _BUILT_FOR, _requires_grad(ddp.module))


def rebuild_ddp(trainer: Any) -> None:
    """Makes DDP exchange the gradients of exactly the parameters that require one now; a collective call.

    DDP decides that once, when it is built. The gradient of a parameter that is unfrozen later would never be
    exchanged, and the processes would diverge without an error; for one that is frozen later DDP would wait in vain.
    The strategy therefore builds it again with the same options. Each process keeps its own buffers. Without DDP
    nothing happens.
    """
    ddp = trainer.strategy.model
    if not isinstance(ddp, DistributedDataParallel):
        return
    module: nn.Module = ddp.module
    if getattr(ddp, _BUILT_FOR, None) == _requires_grad(module):
        return
    trainer.strategy.model = module
    del ddp  # its buckets are as large as the gradients: free them before the next one is built
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    trainer.strategy.configure_ddp()
    with torch.no_grad():
        for buffer, own in buffers:
            buffer.copy_(own)
    setattr(trainer.strategy.model, _BUILT_FOR, _requires_grad(module))


def has_bucket_views(trainer: Any) -> bool:
    """Whether the gradients are views of the buckets of DDP, which every backward pass writes."""
    ddp = trainer.strategy.model
    return isinstance(ddp, DistributedDataParallel) and bool(ddp.gradient_as_bucket_view)


def reshard(module: nn.Module) -> None:
    """Frees the gathered weights of FSDP2, which it holds between forward and backward."""
    for layer in module.modules():
        method = getattr(layer, "reshard", None)
        if callable(method) and hasattr(layer, "unshard"):
            method()


def _requires_grad(module: nn.Module) -> tuple[bool, ...]:
    return tuple(parameter.requires_grad for parameter in module.parameters())
