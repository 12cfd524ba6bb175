"""Whether gradients are finite, at a fraction of what their norm costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_hp.functional.gradient_norm import are_plain, by_kind, gradient_norm, local_part

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
