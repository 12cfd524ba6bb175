"""The loss of each task, and what the logits and the labels of it have to look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lightning_hp.nn.head import Task


def classification_loss(
    task: Task, logits: Tensor, labels: Tensor, weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """The mean loss of a batch.

    Args:
        task: ``"multiclass"``: cross-entropy; ``"binary"``, ``"multilabel"``: binary cross-entropy of each logit.
        logits: Shape (batch, classes); (batch, 1) or (batch,) for ``"binary"``.
        labels: Shape (batch,), integers, or (batch, classes), probabilities, for ``"multiclass"``; (batch,) or
            (batch, 1) for ``"binary"``; (batch, labels) for ``"multilabel"``.
        weights: The weight of each class; for the other tasks that of the positive answers of each logit.
        label_smoothing: The share of certainty that is spread evenly over the answers, >= 0 and < 1.

    Returns:
        A scalar.

    Raises:
        ValueError: If the shapes are others. Values are not looked at, which would wait for the device:
            :func:`check_values` does.

    Example:
        >>> round(classification_loss("binary", torch.zeros(2, 1), torch.tensor([0, 1])).item(), 4)
        0.6931

    """
    check_shapes(task, logits, labels)
    if task == "multiclass":
        target = labels.to(logits.dtype) if labels.is_floating_point() else labels.long()
        return functional.cross_entropy(logits, target, weight=weights, label_smoothing=label_smoothing)
    target = labels.reshape(logits.shape).to(logits.dtype)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / 2
    return functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weights)


def check_shapes(task: Task, logits: Any, labels: Any) -> None:
    """Raises ``ValueError`` if logits and labels do not belong together."""
    shape = tuple(logits.shape)
    got = f"logits of shape {shape} and labels of shape {tuple(labels.shape)}, {labels.dtype}"
    if task == "multiclass":
        is_hard = tuple(labels.shape) == shape[:1] and not labels.is_floating_point()
        is_soft = labels.shape == logits.shape and labels.is_floating_point()
        if len(shape) != 2 or not (is_hard or is_soft):
            raise ValueError(
                "Expected logits (batch, classes) and integer labels (batch,), or a probability of each class, for "
                f"task 'multiclass', but got {got}."
            )
    elif task == "binary":
        if shape[1:] not in ((), (1,)) or tuple(labels.shape) not in (shape[:1], (*shape[:1], 1)):
            raise ValueError(f"Expected one logit and one label for each sample for task 'binary', but got {got}.")
    elif len(shape) != 2 or labels.shape != logits.shape:
        raise ValueError(
            f"Expected logits and labels of shape (batch, labels), 0 or 1, for task 'multilabel', but got {got}."
        )


def check_values(task: Task, num_classes: int, labels: Tensor) -> None:
    """Raises ``ValueError`` if labels are none of the task's; waits for the device, so it is for one batch of many."""
    if labels.numel() == 0:
        return
    low, high = (float(end) for end in torch.aminmax(labels.detach()))
    if task != "multiclass" or labels.is_floating_point():
        expected, fits = "labels from 0 to 1", low >= 0 and high <= 1
    else:
        expected, fits = f"classes from 0 to {num_classes - 1}", low >= 0 and high < num_classes
    if not fits:
        raise ValueError(
            f"Expected {expected} for task {task!r} with {num_classes} classes, but got them from {low:g} to {high:g}."
            " Number the classes from 0, or override `compute_loss` for labels of another kind."
        )


def class_weights_tensor(task: Task, num_classes: int, class_weights: Any) -> Tensor | None:
    """The weights as a tensor, checked: one for each class, or for each logit of its own.

    Raises:
        ValueError: If they are not as many, or not all finite and > 0.

    """
    if class_weights is None:
        return None
    count = 1 if task == "binary" else num_classes
    weights = torch.as_tensor(class_weights, dtype=torch.float32, device="cpu").reshape(-1)
    values: Sequence[float] = weights.tolist()
    if len(values) != count or not all(0 < value < float("inf") for value in values):
        raise ValueError(
            f"Expected `class_weights` to be {count} finite number(s) > 0 for task {task!r}, but got {class_weights!r}."
        )
    return weights
