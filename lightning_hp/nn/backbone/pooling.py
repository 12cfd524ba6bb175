"""From what a model returns to one vector for each sample: masks are honoured, and nothing waits for the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

Pooling = Literal["auto", "mean", "max", "cls", "last", "pooler"]


def pool(output: Any, pooling: str | None, mask: Tensor | None, channels_last: bool = False) -> Tensor:
    """One vector for each sample.

    Args:
        output: A tensor, or the mapping that a Hugging Face model returns.
        pooling: ``"mean"``, ``"max"``, ``"cls"``, ``"last"``, ``"pooler"``, or ``None`` where the model has pooled.
        mask: 1 for tokens, 0 for padding, shape (batch, tokens), or ``None``: all are tokens.
        channels_last: Whether a map is (batch, height, width, channels).

    Returns:
        Features, shape (batch, width).

    Raises:
        ValueError: If there is nothing to be pooled in that way.

    """
    if pooling == "pooler":
        return _entry(output, "pooler_output").flatten(1)
    states = states_of(output)
    if pooling is None:
        return states
    if states.ndim == 4:
        axes = (1, 2) if channels_last else (2, 3)
        return states.mean(axes) if pooling == "mean" else states.amax(axes)
    if mask is None:
        return _pool_all(states, pooling)
    if mask.shape != states.shape[:2]:
        raise ValueError(
            f"Expected an attention mask of shape {tuple(states.shape[:2])}, one entry for each vector that is pooled, "
            f"but got {tuple(mask.shape)}."
        )
    return _pool_masked(states, pooling, mask)


def states_of(output: Any) -> Tensor:
    """The tensor that is pooled: what the model returned, or its last hidden state."""
    if isinstance(output, Tensor):
        return output
    for key in ("last_hidden_state", "logits"):
        if isinstance(output, Mapping) and output.get(key) is not None:
            return _entry(output, key)
    kind = f"{type(output).__name__} with {', '.join(output)}" if isinstance(output, Mapping) else type(output).__name__
    raise ValueError(
        f"Expected the model to return one tensor, or a mapping with `last_hidden_state`, but got {kind}. "
        "Wrap it in a module that returns the features."
    )


def _entry(output: Any, key: str) -> Tensor:
    value = output.get(key) if isinstance(output, Mapping) else None
    if not isinstance(value, Tensor):
        raise ValueError(
            f"Expected the model to return a tensor `{key}`, but it returns none. Choose another `pooling`."
        )
    return value


def _pool_all(states: Tensor, pooling: str) -> Tensor:
    if pooling == "mean":
        return states.mean(1)
    if pooling == "max":
        return states.amax(1)
    return states[:, 0] if pooling == "cls" else states[:, -1]


def _pool_masked(states: Tensor, pooling: str, mask: Tensor) -> Tensor:
    kept = mask != 0
    if pooling == "mean":
        # Weights that sum to one, rather than a sum that is divided: a long text would overflow half precision.
        share = kept.float() / kept.sum(1, keepdim=True).clamp(min=1)
        # Padding may hold anything, even what is not finite: it is taken out, not multiplied by zero.
        return (states.masked_fill(~kept[..., None], 0) * share[..., None].to(states.dtype)).sum(1)
    if pooling == "max":
        lowest = states.masked_fill(~kept[..., None], -torch.inf).amax(1)
        return lowest.masked_fill(~kept.any(1)[:, None], 0)
    # Padding may stand on either side. `argmax` gives the first of equals.
    place = torch.arange(kept.shape[1], device=kept.device)
    index = kept.to(torch.int8).argmax(1) if pooling == "cls" else (kept * place).argmax(1)
    return states.take_along_dim(index[:, None, None], 1).squeeze(1)
