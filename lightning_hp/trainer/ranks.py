"""Several processes that try a step: each by itself, so that one of them may fail, and then they agree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def can_step_apart(trainer: Any, module: nn.Module) -> bool:
    """Whether a process can run a step without the others: nothing in it communicates that :func:`apart` cannot stop.

    Sharded weights are gathered in the forward pass, synchronised batch norm exchanges statistics there while it
    trains, and a static graph wants every iteration to exchange gradients.
    """
    if trainer.world_size == 1:
        return True
    children = list(module.modules())
    if any(hasattr(child, "unshard") for child in children):
        return False
    if trainer.state.fn != "fit":
        return True
    static = getattr(trainer.strategy.model, "static_graph", False)
    return not static and not any(isinstance(child, nn.SyncBatchNorm) for child in children)


@contextmanager
def apart(trainer: Any) -> Iterator[None]:
    """Lets each process step by itself: no gradients, buffers or logged values are exchanged.

    A process that runs out of memory in the middle of a step then leaves nobody waiting. Not for
    :func:`can_step_apart` that says no.
    """
    if trainer.world_size == 1:
        yield
        return
    strategy = trainer.strategy
    model: Any = strategy.model
    is_ddp = isinstance(model, nn.parallel.DistributedDataParallel)
    if is_ddp:
        flags = model.require_backward_grad_sync, model.require_forward_param_sync
        model.require_backward_grad_sync = model.require_forward_param_sync = False
    strategy.reduce = _keep  # `self.log(sync_dist=True)` reduces through it
    # Lightning tells all processes of a SIGTERM in each batch. The loop is an understudy, which is thrown away.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _do_nothing
    try:
        yield
    finally:
        if is_ddp:
            model.require_backward_grad_sync, model.require_forward_param_sync = flags
        vars(strategy).pop("reduce", None)
        vars(trainer.fit_loop.epoch_loop).pop("_broadcast_sigterm_tensor", None)


def is_apart(trainer: Any) -> bool:
    """Whether this is a step within :func:`apart`: nothing may be exchanged."""
    return vars(trainer.strategy).get("reduce") is _keep


def reduce_over_ranks(trainer: Any, values: list[float], operation: str) -> list[float]:
    """The smallest (``"min"``), largest (``"max"``) or summed (``"sum"``) of each value over all processes."""
    if trainer.world_size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=trainer.strategy.root_device)
    reduced: list[float] = trainer.strategy.reduce(tensor, reduce_op=operation).tolist()
    return reduced


def _do_nothing() -> None:
    pass


def _keep(tensor: Any, *args: Any, **kwargs: Any) -> Tensor | Any:
    return tensor


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
