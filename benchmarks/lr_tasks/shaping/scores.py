"""Scores in points from the outputs and the targets of a test set."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(output: Tensor, target: Tensor) -> float:
    """Accuracy in percent."""
    return 100.0 * (output.argmax(1) == target).float().mean().item()


def explained_variance(output: Tensor, target: Tensor) -> float:
    """100 x R2 over all outputs together, at least 0."""
    residual = (output - target).square().sum()
    total = (target - target.mean(0)).square().sum()
    value = (1.0 - residual / total).item()
    return 100.0 * max(0.0, value)


def intersection_over_union(output: Tensor, target: Tensor) -> float:
    """100 x intersection over union of the foreground; the output is a logit per pixel."""
    found, true = output > 0, target > 0.5
    return 100.0 * ((found & true).sum() / torch.clamp((found | true).sum(), min=1)).item()
