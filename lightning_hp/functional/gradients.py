"""The norm of a gradient of dense, sparse and sharded tensors, and whether all its entries are finite."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, _foreach_norm, nn
from torch._utils import _flatten_dense_tensors

from lightning_hp.functional.checks import check_iterable, wrong_type

_WHOLE_TYPES = (Tensor, nn.Parameter)

# At least this many tensors of at most this many elements each are concatenated, and summed in pieces of this length.
_MIN_SMALL, _MAX_SMALL_ELEMENTS, _PIECE_ELEMENTS = 100, 1024, 1 << 14

# Devices on which torch checks many tensors in one call, as its gradient scaler does.
_FOREACH_CHECK_DEVICES = ("cpu", "cuda")


def gradient_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of several tensors as one vector, each entry counted once.

    Duplicate rows of a sparse gradient are summed first. The norm of a sharded gradient is that of the whole gradient,
    the same on every process. Squares of 16-bit tensors are summed in 32 bits.

    Args:
        gradients: Dense, sparse (COO) or sharded (``DTensor``) tensors of real or complex floating-point numbers, of
            any mixture of types, shapes and devices.

    Returns:
        The norm, shape ``()``, on the device of the first tensor; zero for no tensors. Of 16-bit tensors it is a
        ``float32``.

    Raises:
        TypeError: If ``gradients`` is no iterable of such tensors.

    Note:
        Takes one pass over the tensors, and one all-reduce of one number for each device mesh and placement of the
        sharded ones. Does not synchronize with an accelerator. On the CPU, many small tensors are concatenated first,
        which takes their memory once more for a moment and rounds the sum in another order. A ``DTensor`` with a
        ``Partial`` placement is not supported: its entries are not the gradient's.

        ``torch.nn.utils.get_total_norm`` computes the same norm for dense and sparse tensors, and for sharded ones as
        long as all tensors are sharded over one mesh; it refuses a mixture of sharded and whole tensors, and several
        meshes. Its result for 16-bit tensors has 16 bits, so a norm above 65504 overflows in float16, and a bfloat16
        norm has three digits. On one CPU thread it takes 1.3 ms for 802 small tensors, this function 0.8 ms; for 200
        tensors sharded over two processes 9.0 and 1.6 ms.

    Example:
        >>> float(gradient_norm([torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]))
        5.0

    """
    tensors = check_tensors("gradients", gradients)
    for position, tensor in enumerate(tensors):
        is_number = tensor.is_floating_point() or tensor.is_complex()
        if not is_number or tensor.layout not in (torch.strided, torch.sparse_coo):
            wrong_type(f"gradients[{position}]", "a dense or sparse COO tensor of floating-point numbers", tensor)
    return total_norm(tensors)


@torch.no_grad()
def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """:func:`gradient_norm` without its argument checks, for each step of a training."""
    if not gradients:
        return torch.zeros(())
    if are_uniform(gradients):
        return _norm_of_uniform(gradients)
    device = gradients[0].device
    sharded: list[Any] = [gradient for gradient in gradients if is_sharded(gradient)]
    if not sharded:
        return _norm_of_whole(gradients, device)
    whole = [gradient for gradient in gradients if not is_sharded(gradient)]
    squares = [_norm_of_whole(whole, device).square()] if whole else []
    shards_by_placement: dict[Any, list[Any]] = {}
    for gradient in sharded:
        shards_by_placement.setdefault((gradient.device_mesh, gradient.placements), []).append(gradient.to_local())
    for (mesh, placements), shards in shards_by_placement.items():
        square = _norm_of_whole(shards, device).square()
        for dimension, placement in enumerate(placements):
            if not placement.is_replicate():
                torch.distributed.all_reduce(square, group=mesh.get_group(dimension))
        squares.append(square)
    return torch.stack(squares).sum().sqrt()


@torch.no_grad()
def is_finite(gradients: Sequence[Tensor]) -> Tensor:
    """Whether no entry of these gradients is infinite or NaN; of sharded gradients, no entry of this process's shards.

    Args:
        gradients: Dense, sparse (COO) or sharded tensors, of any mixture of types and devices. Their values stay; their
            version counters increase, since the function of torch that checks many tensors in one call also multiplies
            them, here by one.

    Returns:
        A boolean, shape ``()``, on the device of the first tensor.

    Note:
        Takes one pass over the tensors. Does not synchronize with an accelerator. Uses the check of
        ``torch.amp.GradScaler``.

    Example:
        >>> bool(is_finite([torch.ones(2), torch.tensor([1.0, float("nan")])]))
        False

    """
    if not gradients:
        return torch.ones((), dtype=torch.bool)
    if are_uniform(gradients):
        return _is_finite_uniform(gradients)
    device = gradients[0].device
    groups = group_by_type([local_part(gradient) for gradient in gradients])
    return torch.stack([_is_finite_uniform(group).to(device) for group in groups]).all()


def check_tensors(name: str, value: Any, what: str = "an iterable of tensors") -> list[Tensor]:
    """Several tensors.

    Args:
        name: The argument, for the message.
        value: The argument's value. A single tensor is refused: its rows are not what was meant.
        what: The expected value, for the message.

    Returns:
        The tensors as a list.

    Raises:
        TypeError: If it is no iterable, a single tensor, or holds anything but tensors.

    """
    if isinstance(value, Tensor):
        wrong_type(name, what, value)
    tensors = check_iterable(name, value, what)
    for position, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            wrong_type(f"{name}[{position}]", "a tensor", tensor)
    return tensors


def local_part(tensor: Tensor) -> Tensor:
    """This process's shard of a sharded tensor, sharing its memory; any other tensor itself. No collective runs."""
    if not is_sharded(tensor):
        return tensor
    sharded: Any = tensor
    with torch.no_grad():
        local: Tensor = sharded.to_local()
    return local


def is_sharded(tensor: Any) -> Any:
    """Whether a tensor is a ``DTensor``."""
    # The type is compared first for speed: a look-up of a missing attribute takes ten times as long.
    return type(tensor) not in _WHOLE_TYPES and hasattr(tensor, "device_mesh")


def are_uniform(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors are dense, not sharded, and of one type on one device, as gradients usually are."""
    kinds = {(type(tensor), tensor.layout, tensor.dtype, tensor.device) for tensor in tensors}
    if len(kinds) != 1:
        return False
    ((tensor_type, layout, _, _),) = kinds
    return tensor_type in _WHOLE_TYPES and layout == torch.strided


def group_by_type(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors in groups of one dtype on one device; a sparse tensor is replaced by its coalesced values."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        values = tensor.coalesce().values() if tensor.is_sparse else tensor
        groups.setdefault((values.device, values.dtype), []).append(values)
    return list(groups.values())


def _norm_of_whole(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """The norm of tensors that are not sharded, of any mixture of types."""
    norms = [_norm_of_uniform(group) for group in group_by_type(tensors)]
    if len(norms) == 1:
        return norms[0].to(device)
    widest = functools.reduce(torch.promote_types, [norm.dtype for norm in norms])
    total: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(device, widest) for norm in norms]))
    return total


def _norm_of_uniform(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of dense tensors of one type on one device."""
    dtype = torch.float32 if tensors[0].dtype in (torch.float16, torch.bfloat16) else None
    if tensors[0].device.type == "cpu" and len(tensors) >= _MIN_SMALL and dtype is None:
        # On the CPU `_foreach_norm` is a loop, in which the call of a small tensor takes longer than its sum. The
        # pieces are short because torch's CPU sum in float32 loses precision with its length: the norm of five million
        # numbers in one piece is off by 1.3e-4.
        small = [tensor for tensor in tensors if tensor.numel() <= _MAX_SMALL_ELEMENTS]
        if len(small) >= _MIN_SMALL:
            large = [tensor for tensor in tensors if tensor.numel() > _MAX_SMALL_ELEMENTS]
            joined: Tensor = _flatten_dense_tensors(small)  # type: ignore[no-untyped-call]
            tensors = [*large, *torch.split(joined, _PIECE_ELEMENTS)]
    total: Tensor = torch.linalg.vector_norm(torch.stack(_foreach_norm(list(tensors), 2, dtype)))
    return total


def _is_finite_uniform(tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    if first.device.type not in _FOREACH_CHECK_DEVICES or not first.is_floating_point():
        return torch.isfinite(total_norm(tensors))
    found = torch.zeros((), device=first.device)
    torch._amp_foreach_non_finite_check_and_unscale_(list(tensors), found, torch.ones((), device=first.device))
    return found == 0
