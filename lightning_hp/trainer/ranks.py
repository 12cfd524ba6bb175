"""Several processes (ranks): steps without communication, and agreement on the results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lightning_hp.trainer.stand_ins import no_op


def start_method(trainer: Any) -> str | None:
    """How a Trainer starts its own processes, from which only the weights come back: ``"spawn"``, ``"fork"``.

    Args:
        trainer: The Trainer.

    Returns:
        ``None`` if it runs in the processes of the script.

    """
    launcher = trainer.strategy.launcher
    if launcher is None or all(base.__name__ != "_MultiProcessingLauncher" for base in type(launcher).__mro__):
        return None
    return str(launcher._start_method)


def ranks_can_be_independent(trainer: Any, module: nn.Module) -> bool:
    """Whether each process can run a step without the others, within :func:`independent_ranks`.

    It cannot where the forward pass communicates: sharded weights are gathered there, and synchronized batch norm
    exchanges statistics while it trains. A static graph requires every iteration to exchange gradients.

    Args:
        trainer: The Trainer.
        module: Its module.

    """
    if trainer.world_size == 1:
        return True
    layers = list(module.modules())
    if any(hasattr(layer, "unshard") for layer in layers):
        return False
    if trainer.state.fn != "fit":
        return True
    is_static = getattr(trainer.strategy.model, "static_graph", False)
    return not is_static and not any(isinstance(layer, nn.SyncBatchNorm) for layer in layers)


@contextmanager
def independent_ranks(trainer: Any) -> Iterator[None]:
    """Within the ``with`` block each process steps by itself: no gradients, buffers or logged values are exchanged.

    A process that runs out of memory in a step does not leave the others waiting. Allowed only where
    :func:`ranks_can_be_independent`.

    Args:
        trainer: The Trainer.

    """
    if trainer.world_size == 1:
        yield
        return
    strategy = trainer.strategy
    model: Any = strategy.model
    is_ddp = isinstance(model, DistributedDataParallel)
    if is_ddp:
        flags = model.require_backward_grad_sync, model.require_forward_param_sync
        model.require_backward_grad_sync = model.require_forward_param_sync = False
    strategy.reduce = _local_value  # `self.log(sync_dist=True)` calls it
    # Lightning broadcasts a SIGTERM in each batch. The loop belongs to the rehearsal and is discarded after it.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = no_op
    try:
        yield
    finally:
        if is_ddp:
            model.require_backward_grad_sync, model.require_forward_param_sync = flags
        vars(strategy).pop("reduce", None)
        vars(trainer.fit_loop.epoch_loop).pop("_broadcast_sigterm_tensor", None)


def ranks_are_independent(trainer: Any) -> bool:
    """Whether the current step runs within :func:`independent_ranks`, so that nothing may be exchanged."""
    return vars(trainer.strategy).get("reduce") is _local_value


def reduce_over_ranks(trainer: Any, values: list[float], operation: str) -> list[float]:
    """Reduces each value over all processes; a collective call.

    Args:
        trainer: The Trainer.
        values: Numbers of this process, as many on every process.
        operation: ``"min"``, ``"max"`` or ``"sum"``.

    """
    if trainer.world_size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=trainer.strategy.root_device)
    reduced: list[float] = trainer.strategy.reduce(tensor, reduce_op=operation).tolist()
    return reduced


def _local_value(tensor: Any, *args: Any, **kwargs: Any) -> Tensor | Any:
    return tensor
