"""The loss of each task, and checks of the logits and labels that it takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lightning_hp.functional.checks import check_array
from lightning_hp.nn.head import Task


def classification_loss(
    task: Task, logits: Tensor, labels: Tensor, weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """The mean loss of a batch.

    Args:
        task: ``"multiclass"``: cross-entropy; ``"binary"`` and ``"multilabel"``: binary cross-entropy of each logit.
        logits: Shape (batch, classes); (batch, 1) or (batch,) for ``"binary"``.
        labels: For ``"multiclass"`` integers of shape (batch,), or probabilities of shape (batch, classes); for
            ``"binary"`` shape (batch,) or (batch, 1); for ``"multilabel"`` shape (batch, labels).
        weights: The weight of each class; for the other tasks the weight of the positive labels of each logit.
        label_smoothing: The probability that is spread evenly over all classes, >= 0 and < 1.

    Returns:
        A scalar.

    Raises:
        TypeError: If the labels are no tensor.
        ValueError: If the shapes do not fit. Values are not checked here, because that synchronizes with the device;
            see :func:`check_values`.

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


def check_shapes(task: Task, logits: Tensor, labels: Any) -> None:
    """Checks that the shapes of logits and labels fit the task and each other.

    Raises:
        TypeError: If the labels are no tensor.
        ValueError: If the shapes do not fit.

    """
    _check_tensor(labels)
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


def check_values(task: Task, num_classes: int, labels: Any) -> None:
    """Checks that the values of labels fit the task. Synchronizes with the device of the labels.

    Raises:
        TypeError: If the labels are no tensor of real numbers.
        ValueError: If a label is out of range, or a class is no integer.

    """
    _check_tensor(labels)
    if labels.numel() == 0:
        return
    if task == "multiclass" and labels.is_floating_point() and labels.ndim < 2:
        raise ValueError(
            f"Expected integer labels (batch,), or a probability of each class (batch, classes), for task {task!r}, but"
            f" got {labels.dtype} of shape {tuple(labels.shape)}. Convert classes to integers, as with `labels.long()`."
        )
    lowest, highest = (float(end) for end in torch.aminmax(labels.detach()))
    if task != "multiclass" or labels.is_floating_point():
        expected, fits = "labels from 0 to 1", lowest >= 0 and highest <= 1
    else:
        expected, fits = f"classes from 0 to {num_classes - 1}", lowest >= 0 and highest < num_classes
    if fits:
        return
    advice = (
        "Leave out samples without a label, and number the classes from 0"
        if lowest < 0
        else "Number the classes from 0 (subtract 1 if they start at 1), correct `num_classes`"
    )
    raise ValueError(
        f"Expected {expected} for task {task!r} with {num_classes} classes, but got labels from {lowest:g} to "
        f"{highest:g}. {advice}, or override `compute_loss` and `update_metrics` for labels of another kind."
    )


def class_weights_tensor(task: Task, num_classes: int, class_weights: Any) -> Tensor | None:
    """The class weights as a tensor.

    Args:
        task: The task.
        num_classes: Number of classes or labels.
        class_weights: One weight for each class, > 0; for ``"multilabel"`` one for each label, for ``"binary"`` one.
            ``None``: no weights.

    Returns:
        Shape (num_classes,) or, for ``"binary"``, (1,); ``float32``.

    Raises:
        TypeError: If they are no numbers.
        ValueError: If their number is wrong, or one is not finite and > 0.

    """
    if class_weights is None:
        return None
    count = 1 if task == "binary" else num_classes
    expected = f"{count} finite number(s) > 0 for task {task!r}, or 'balanced'"
    values = class_weights.float() if isinstance(class_weights, Tensor) else class_weights
    array = check_array("class_weights", values, expected)
    weights = torch.as_tensor(array, dtype=torch.float32, device="cpu").reshape(-1)
    if len(weights) != count or not bool(((weights > 0) & weights.isfinite()).all()):
        raise ValueError(f"Expected `class_weights` to be {expected}, but got {class_weights!r}.")
    return weights


def _check_tensor(labels: Any) -> None:
    if not isinstance(labels, Tensor) or labels.is_complex():
        got = f"a tensor of {labels.dtype}" if isinstance(labels, Tensor) else f"a {type(labels).__name__}"
        raise TypeError(
            f"Expected the labels of a batch to be a tensor of numbers, but got {got}. Convert them in the dataset, or "
            "override `split_batch`."
        )
