"""The norm of a whole gradient: of dense, sparse and sharded tensors, as one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, _foreach_norm


@torch.no_grad()
def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of tensors taken together as one vector, each entry counted once.

    A row that a sparse gradient lists twice is added up first; shards of a ``DTensor`` are added up over the processes
    that hold them, so that each process gets the same number. Sums of 16-bit tensors are taken in 32 bits.

    Args:
        gradients: Dense, sparse (COO) or sharded tensors, of any mixture of types and devices.

    Returns:
        The norm, shape ``()``, on the device of the first tensor; zero for none.

    Costs one pass over the tensors, and one all-reduce of one number for each way in which they are sharded. Reads
    nothing back. Does not help with partial sums (``DTensor`` with ``Partial``), which are not gradients yet.

    Source: ``torch.nn.utils.get_total_norm`` of torch, which knows neither sparse nor sharded tensors.

    Example:
        >>> float(gradient_norm([torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]))
        5.0

    """
    if not gradients:
        return torch.zeros(())
    device = gradients[0].device
    whole = [gradient for gradient in gradients if not _is_sharded(gradient)]
    total = _norm([_values(gradient) for gradient in whole], device) if whole else None
    ways: dict[Any, list[Any]] = {}
    for gradient in gradients:
        if _is_sharded(gradient):
            sharded: Any = gradient
            ways.setdefault((sharded.device_mesh, sharded.placements), []).append(sharded)
    if not ways:
        assert total is not None
        return total
    squares = [] if total is None else [total.square()]
    for (mesh, placements), shards in ways.items():
        square = _norm([shard.to_local() for shard in shards], device).square()
        for dimension, placement in enumerate(placements):
            if not placement.is_replicate():
                torch.distributed.all_reduce(square, group=mesh.get_group(dimension))
        squares.append(square)
    return torch.stack(squares).sum().sqrt()


def local_part(tensor: Tensor) -> Tensor:
    """This process's shard of a sharded tensor, sharing its memory; any other tensor itself. No collective runs."""
    if not _is_sharded(tensor):
        return tensor
    sharded: Any = tensor
    with torch.no_grad():
        local: Tensor = sharded.to_local()
    return local


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "device_mesh")


def _values(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _norm(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for position, tensor in enumerate(tensors):
        kinds.setdefault((tensor.device, tensor.dtype), []).append(position)
    norms: list[Tensor] = [tensors[0]] * len(tensors)
    for (_, dtype), positions in kinds.items():
        wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else None
        for position, norm in zip(
            positions, _foreach_norm([tensors[position] for position in positions], 2, wide), strict=True
        ):
            norms[position] = norm
    widest = norms[0].dtype
    for norm in norms:
        widest = torch.promote_types(widest, norm.dtype)
    total: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(device, widest) for norm in norms]))
    return total
