"""Class weights from the frequencies of the classes in the training data.

weight of a class = samples / (classes * samples of the class)       multiclass, as in scikit-learn
weight of the positive class = negative / positive samples           binary
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_hp.data import UnknownClasses, class_counts
from lightning_hp.nn.head import Task
from lightning_hp.trainer import LoopLoaders, flatten_loaders, misconfiguration, reduce_over_ranks

_INSTEAD = "Pass `class_weights` as numbers."


def balanced_weights(task: Task, counts: Any) -> Tensor:
    """The weights that give every class the same share of the loss.

    Args:
        task: ``"multiclass"`` or ``"binary"``.
        counts: Number of samples of each class, or anything in proportion to it; for ``"binary"`` the negative class
            first.

    Returns:
        Shape (classes,), or (1,) for ``"binary"``; ``float32``. A class without a sample has weight 1.

    Raises:
        ValueError: If no class of a binary task, or only one, has samples.

    Example:
        >>> balanced_weights("multiclass", [1, 1, 2])
        tensor([1.3333, 1.3333, 0.6667])

    """
    numbers = torch.as_tensor(counts, dtype=torch.float64, device="cpu")
    if task == "binary":
        negative, positive = numbers.tolist()
        if not negative or not positive:
            raise ValueError(f"Expected samples of both classes for class_weights='balanced', but got {counts}.")
        return torch.tensor([negative / positive])
    occurs = numbers > 0
    weights = numbers.sum() / (occurs.sum() * numbers)
    return torch.where(occurs, weights, 1.0).float()


def weights_of_training(pl_module: Any, task: Task, num_classes: int) -> Tensor:
    """The balanced weights of the training data of a module that is about to be trained, on all its processes.

    A collective call.

    Args:
        pl_module: The module, with its Trainer.
        task: ``"multiclass"`` or ``"binary"``.
        num_classes: Number of classes.

    Returns:
        As :func:`balanced_weights`.

    Raises:
        MisconfigurationException: If the labels cannot be counted.

    """
    trainer = pl_module.trainer
    with LoopLoaders(trainer).building_without_effects(pl_module) as build:
        loaders = flatten_loaders(build())
        if len(loaders) != 1:
            raise misconfiguration(
                trainer,
                f"Expected one training loader for class_weights='balanced', but got {len(loaders)}. {_INSTEAD}",
            )
        counts, error = [0.0] * max(num_classes, 2), None
        try:
            # All processes have to come to the same result, so there is no limit in seconds.
            found = class_counts(loaders[0], allow_pass=True, max_seconds=math.inf)
            if isinstance(found, UnknownClasses):
                raise ValueError(f"Expected labels to count, but got none: {found.reason}")
            found = class_counts(loaders[0], len(counts), allow_pass=True, max_seconds=math.inf)
            assert not isinstance(found, UnknownClasses)
            counts = [float(count) for count in found.counts]
        except (LookupError, TypeError, ValueError) as raised:
            error = raised
        # Each process may have data of its own; where all have the same, the sum is in the same proportion.
        failed, *total = reduce_over_ranks(trainer, [float(error is not None), *counts], "sum")
        try:
            if error is not None:
                raise error
            if failed:
                raise ValueError("Expected labels to count on every process, but another one has none.")
            return balanced_weights(task, total)
        except (LookupError, TypeError, ValueError) as raised:
            raise misconfiguration(trainer, f"class_weights='balanced': {raised} {_INSTEAD}") from raised
