"""Several processes that try a step: each by itself, so that one of them may fail, and then they agree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def can_step_apart(trainer: Any, module: nn.Module) -> bool:
    """Whether a process can run a training step without the others: DDP with nothing that communicates in a step.

    Sharded weights are gathered in the forward pass, synchronised batch norm exchanges statistics there, and a static
    graph wants every iteration to exchange gradients.
    """
    if trainer.world_size == 1:
        return True
    model = trainer.strategy.model
    return (
        isinstance(model, nn.parallel.DistributedDataParallel)
        and not getattr(model, "static_graph", False)
        and not any(isinstance(child, nn.SyncBatchNorm) for child in module.modules())
    )


@contextmanager
def apart(trainer: Any) -> Iterator[None]:
    """Lets each process step by itself: no gradients, buffers or logged values are exchanged.

    A process that runs out of memory in the middle of a step then leaves nobody waiting. Not for
    :func:`can_step_apart` that says no.
    """
    strategy = trainer.strategy
    model = strategy.model
    if trainer.world_size == 1 or not isinstance(model, nn.parallel.DistributedDataParallel):
        yield
        return
    flags = model.require_backward_grad_sync, model.require_forward_param_sync
    model.require_backward_grad_sync = model.require_forward_param_sync = False
    strategy.reduce = _keep  # `self.log(sync_dist=True)` reduces through it
    # Lightning tells all processes of a SIGTERM in each batch. The loop is an understudy, which is thrown away.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _do_nothing
    try:
        yield
    finally:
        model.require_backward_grad_sync, model.require_forward_param_sync = flags
        vars(strategy).pop("reduce", None)


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
