"""Pooling: from the output of a model to one vector for each sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

Pooling = Literal["auto", "mean", "max", "cls", "last", "pooler"]


def pool(output: Any, pooling: str | None, mask: Tensor | None, channels_last: bool = False) -> Tensor:
    """One vector for each sample. Padding is left out, and the device is not synchronized.

    Args:
        output: A tensor, or the mapping that a Hugging Face model returns: (batch, tokens, width), or a feature map
            (batch, channels, height, width).
        pooling: ``"mean"``, ``"max"``, ``"cls"``, ``"last"``, ``"pooler"``, or ``None`` if the model has pooled.
        mask: 1 for tokens, 0 for padding, shape (batch, tokens); ``None``: there is no padding.
        channels_last: Whether a feature map is (batch, height, width, channels).

    Returns:
        Features, shape (batch, width).

    Raises:
        ValueError: If the output cannot be pooled in this way.

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
            f"but got {tuple(mask.shape)}, and the model does not say which vectors belong to which entries. Pass "
            "inputs without padding and without a mask, or pass head=None and a module that pools by itself."
        )
    return _pool_masked(states, pooling, mask)


def mask_of_vectors(model: nn.Module, mask: Tensor, num_vectors: int) -> Tensor:
    """The mask of the vectors that a speech model returns, from that of the samples or frames that it takes.

    Args:
        model: The model; those of Hugging Face know how many vectors they make of an input.
        mask: 1 for samples, 0 for padding on the right, shape (batch, samples).
        num_vectors: Number of vectors that the model returned for each input.

    Returns:
        Shape (batch, num_vectors); the mask as it is if it has that shape, or if the model does not know.

    """
    if mask.ndim != 2 or mask.shape[1] == num_vectors:
        return mask
    if callable(shorten := getattr(model, "_get_feature_vector_attention_mask", None)):
        shortened: Tensor = shorten(num_vectors, mask)
        return shortened
    if callable(lengths := getattr(model, "_get_feat_extract_output_lengths", None)):
        num_valid: Tensor = lengths(mask.sum(1))
        return torch.arange(num_vectors, device=mask.device) < num_valid[:, None]
    return mask


def states_of(output: Any) -> Tensor:
    """The tensor that is pooled: the output of the model, or the last hidden state in it."""
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
    is_token = mask != 0
    if pooling == "mean":
        # Weights that sum to one; a sum that is divided afterwards would overflow half precision for a long text.
        weights = is_token.float() / is_token.sum(1, keepdim=True).clamp(min=1)
        # The states of padding may be infinite or NaN, so they are replaced and not multiplied by zero.
        return (states.masked_fill(~is_token[..., None], 0) * weights[..., None].to(states.dtype)).sum(1)
    if pooling == "max":
        largest = states.masked_fill(~is_token[..., None], -torch.inf).amax(1)
        return largest.masked_fill(~is_token.any(1)[:, None], 0)
    # Padding may be on either side. `argmax` returns the first of equal values.
    position = torch.arange(is_token.shape[1], device=is_token.device)
    index = is_token.to(torch.int8).argmax(1) if pooling == "cls" else (is_token * position).argmax(1)
    return states.take_along_dim(index[:, None, None], 1).squeeze(1)
