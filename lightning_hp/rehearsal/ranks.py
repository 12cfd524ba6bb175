"""Several processes that try a step: each by itself, so that one of them may fail, and then they agree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


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
