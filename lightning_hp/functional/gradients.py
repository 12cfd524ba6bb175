"""The norm of a whole gradient: of dense, sparse and sharded tensors, as one vector."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, _foreach_norm
from torch._utils import _flatten_dense_tensors
from torch.nn import Parameter

_MANY, _FEW_ELEMENTS, _STRETCH = 100, 1024, 1 << 14

_WHOLE = (Tensor, Parameter)

_PLAIN = [(kind, torch.strided) for kind in _WHOLE]


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
    nothing back. Many small tensors on the CPU are laid end to end first: their memory once more for a moment, and sums
    rounded in another order. Does not help with partial sums (``DTensor`` with ``Partial``), which are not gradients
    yet.

    Source: ``torch.nn.utils.get_total_norm`` of torch, which knows neither sparse nor sharded tensors.

    Example:
        >>> float(gradient_norm([torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]))
        5.0

    """
    if not gradients:
        return torch.zeros(())
    device = gradients[0].device
    if are_plain(gradients):
        return _norm_of_alike(gradients)
    sharded: list[Any] = [gradient for gradient in gradients if is_sharded(gradient)]
    if not sharded:
        return _norm(gradients, device)
    whole = [gradient for gradient in gradients if not is_sharded(gradient)]
    squares = [_norm(whole, device).square()] if whole else []
    ways: dict[Any, list[Any]] = {}
    for shard in sharded:
        ways.setdefault((shard.device_mesh, shard.placements), []).append(shard.to_local())
    for (mesh, placements), shards in ways.items():
        square = _norm(shards, device).square()
        for dimension, placement in enumerate(placements):
            if not placement.is_replicate():
                torch.distributed.all_reduce(square, group=mesh.get_group(dimension))
        squares.append(square)
    return torch.stack(squares).sum().sqrt()


def local_part(tensor: Tensor) -> Tensor:
    """This process's shard of a sharded tensor, sharing its memory; any other tensor itself. No collective runs."""
    if not is_sharded(tensor):
        return tensor
    sharded: Any = tensor
    with torch.no_grad():
        local: Tensor = sharded.to_local()
    return local


def is_sharded(tensor: Any) -> Any:
    """Whether a tensor is one of the shards of a ``DTensor``."""
    # The first question is for speed: an attribute that is not there takes ten times as long.
    return type(tensor) not in _WHOLE and hasattr(tensor, "device_mesh")


def are_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors are dense, whole, and of one type on one device, as they nearly always are: a single look."""
    kinds = {(type(tensor), tensor.layout, tensor.dtype, tensor.device) for tensor in tensors}
    return len(kinds) == 1 and next(iter(kinds))[:2] in _PLAIN


def by_kind(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors of one type on one device together; of a sparse one its entries, each once."""
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        values = tensor.coalesce().values() if tensor.is_sparse else tensor
        kinds.setdefault((values.device, values.dtype), []).append(values)
    return list(kinds.values())


def _norm(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    norms = [_norm_of_alike(alike) for alike in by_kind(tensors)]
    if len(norms) == 1:
        return norms[0].to(device)
    widest = functools.reduce(torch.promote_types, [norm.dtype for norm in norms])
    total: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(device, widest) for norm in norms]))
    return total


def _norm_of_alike(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of dense tensors of one type on one device."""
    # Squares of 16 bits are added up in 32.
    dtype = torch.float32 if tensors[0].dtype in (torch.float16, torch.bfloat16) else None
    if tensors[0].device.type == "cpu" and len(tensors) >= _MANY and dtype is None:
        # Elsewhere torch does this by itself; here each call takes longer than its few sums. What torch adds up in one
        # stretch gets less exact with its length, and with 16 bits.
        small = [tensor for tensor in tensors if tensor.numel() <= _FEW_ELEMENTS]
        if len(small) >= _MANY:
            large = [tensor for tensor in tensors if tensor.numel() > _FEW_ELEMENTS]
            ends: Tensor = _flatten_dense_tensors(small)  # type: ignore[no-untyped-call]
            tensors = [*large, *torch.split(ends, _STRETCH)]
    total: Tensor = torch.linalg.vector_norm(torch.stack(_foreach_norm(list(tensors), 2, dtype)))
    return total


# Where torch looks through many tensors in one call, as its gradient scaler does.
_AT_ONCE = ("cpu", "cuda")


@torch.no_grad()
def is_finite(gradients: Sequence[Tensor]) -> Tensor:
    """Whether no entry of these gradients is infinite or not a number; of shards, those of this process.

    Args:
        gradients: Dense, sparse (COO) or sharded tensors, of any mixture of types and devices. They keep their values,
            but torch takes them for written: its one call for many tensors is the gradient scaler's, which multiplies,
            here by one.

    Returns:
        A truth value, shape ``()``, on the device of the first tensor.

    Costs one pass over the tensors. Reads nothing back.

    Source: ``torch.amp.GradScaler`` of torch.

    Example:
        >>> bool(is_finite([torch.ones(2), torch.tensor([1.0, float("nan")])]))
        False

    """
    if not gradients:
        return torch.ones((), dtype=torch.bool)
    if are_plain(gradients):
        return _is_finite(gradients)
    device = gradients[0].device
    kinds = by_kind([local_part(gradient) for gradient in gradients])
    return torch.stack([_is_finite(alike).to(device) for alike in kinds]).all()


def _is_finite(tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    if first.device.type not in _AT_ONCE or not first.is_floating_point():
        return torch.isfinite(gradient_norm(tensors))
    found = torch.zeros((), device=first.device)
    torch._amp_foreach_non_finite_check_and_unscale_(list(tensors), found, torch.ones((), device=first.device))
    return found == 0
