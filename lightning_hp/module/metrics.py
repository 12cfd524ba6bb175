"""The metrics of each task. Counting a batch does not synchronize with the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassF1Score,
    MultilabelAccuracy,
    MultilabelF1Score,
)
from typing_extensions import override

from lightning_hp.nn.head import Task


class MacroF1(MulticlassF1Score):
    """The F1 score of torchmetrics for predicted classes, averaged over classes.

    Note:
        torchmetrics counts with ``torch.bincount`` over a table of classes times classes, which synchronizes with the
        device in every step. This class counts with ``scatter_add_``.

    """

    @override
    def update(self, preds: Tensor, target: Tensor) -> None:
        """Counts a batch.

        Args:
            preds: Predicted classes, shape (batch,).
            target: True classes, shape (batch,).

        """
        hits = (preds == target).long()
        for state, classes, count in ((self.tp, target, hits), (self.fp, preds, 1 - hits), (self.fn, target, 1 - hits)):
            assert isinstance(state, Tensor)
            state.scatter_add_(0, classes, count)


class TopKAccuracy(MulticlassAccuracy):
    """The top-k accuracy of torchmetrics, averaged over samples, without its one-hot tables."""

    @override
    def update(self, preds: Tensor, target: Tensor) -> None:
        """Counts a batch.

        Args:
            preds: Logits, shape (batch, classes).
            target: True classes, shape (batch,).

        """
        hits = (preds.topk(self.top_k, 1).indices == target[:, None]).any(1).sum()
        for state, count in ((self.tp, hits), (self.fp, len(target) - hits), (self.fn, len(target) - hits)):
            assert isinstance(state, Tensor)
            state += count


class ClassCounter(Metric):
    """Precision, recall, F1 and number of samples of each class, over all processes.

    Args:
        task: The task. Both classes of ``"binary"`` are counted, and the positive ones of each label.
        num_classes: Number of classes or labels.

    """

    full_state_update = False

    def __init__(self, task: Task, num_classes: int) -> None:
        super().__init__()
        self._task: Task = task
        size = 2 if task == "binary" else num_classes
        for name in ("hits", "predictions", "samples"):
            self.add_state(name, torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")

    @override
    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Counts a batch.

        Args:
            logits: As for :func:`~lightning_hp.module.losses.classification_loss`.
            labels: Likewise.

        """
        predicted, target = decisions(self._task, logits.detach(), labels)
        for state, values in (("hits", (predicted, target)), ("predictions", (predicted,)), ("samples", (target,))):
            counts = getattr(self, state)
            if self._task == "multilabel":
                counts += torch.stack(values).all(0).sum(0)
                continue
            first = values[0].reshape(-1)
            matches = (first == values[-1].reshape(-1)).long()
            counts.scatter_add_(0, first, matches)

    @override
    def compute(self) -> Tensor:
        """The scores.

        Returns:
            Precision, recall, F1 and number of samples of each class, shape (classes, 4); a score without a prediction
            or a sample is 0.

        """
        hits, predictions, samples = (getattr(self, name).float() for name in ("hits", "predictions", "samples"))
        f1 = 2 * hits / (predictions + samples).clamp(min=1)
        return torch.stack([hits / predictions.clamp(min=1), hits / samples.clamp(min=1), f1, samples], 1)


def build_metrics(task: Task, num_classes: int, top_k: int | None) -> nn.ModuleDict:
    """New metrics by their names.

    Args:
        task: ``"multiclass"``: accuracy (averaged over samples), F1 averaged over classes, top-k accuracy.
            ``"binary"``: accuracy, and F1 of the positive class. ``"multilabel"``: accuracy and F1 of each label,
            averaged over labels.
        num_classes: Number of classes or labels.
        top_k: k of the top-k accuracy. It is left out if ``None``, or if there are at most k classes.

    Example:
        >>> list(build_metrics("multiclass", 10, top_k=5))
        ['accuracy', 'f1', 'accuracy_top5']

    """
    # `validate_args` would look at the values, which synchronizes with the device.
    if task == "binary":
        return nn.ModuleDict(
            {"accuracy": BinaryAccuracy(validate_args=False), "f1": BinaryF1Score(validate_args=False)}
        )
    if task == "multilabel":
        return nn.ModuleDict(
            {
                "accuracy": MultilabelAccuracy(num_classes, validate_args=False),
                "f1": MultilabelF1Score(num_classes, validate_args=False),
            }
        )
    metrics: dict[str, Metric] = {
        "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
        "f1": MacroF1(num_classes, average="macro", validate_args=False),
    }
    if top_k is not None and top_k < num_classes:
        metrics[f"accuracy_top{top_k}"] = TopKAccuracy(num_classes, top_k, average="micro", validate_args=False)
    return nn.ModuleDict(metrics)


def update_metrics(metrics: nn.ModuleDict, task: Task, logits: Tensor, labels: Tensor) -> None:
    """Counts a batch; no metric is computed.

    Args:
        metrics: What :func:`build_metrics` returns.
        task: The task.
        logits: As for :func:`~lightning_hp.module.losses.classification_loss`.
        labels: Likewise.

    """
    logits = logits.detach()
    # Decisions, not logits: torchmetrics takes logits that all lie between 0 and 1 for probabilities.
    predicted, target = decisions(task, logits, labels)
    for name, metric in metrics.items():
        assert isinstance(metric, Metric)
        metric.update(logits if name.startswith("accuracy_top") else predicted, target)


def decisions(task: Task, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted and true classes as integers; 0 or 1 for each logit if the task is not ``"multiclass"``."""
    if task == "multiclass":
        return logits.argmax(1), labels.argmax(1) if labels.is_floating_point() else labels.long()
    return (logits > 0).long(), (labels.reshape(logits.shape) > 0.5).long()


def probabilities(task: Task, logits: Tensor) -> Tensor:
    """The softmax over classes, or the sigmoid of each logit.

    Args:
        task: The task.
        logits: Shape (batch, classes); (batch, 1) or (batch,) for ``"binary"``.

    Returns:
        Shape (batch, classes); (batch,) for ``"binary"``.

    Example:
        >>> import torch
        >>> probabilities("multiclass", torch.zeros(1, 4))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])

    """
    if task == "multiclass":
        return logits.softmax(-1)
    return logits.sigmoid().reshape(len(logits)) if task == "binary" else logits.sigmoid()
