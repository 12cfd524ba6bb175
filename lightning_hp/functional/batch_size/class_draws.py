"""How a batch is drawn from the classes of a dataset, and how likely one class occurs too rarely in it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lightning_hp.functional.checks import (
    MAX_INT,
    check_array,
    check_bool,
    check_int,
    is_number,
    wrong_type,
    wrong_value,
)

Array = NDArray[np.float64]


class ClassDraws(NamedTuple):
    """The classes that batches are drawn from. Classes of equal size are one row.

    Attributes:
        sizes: Samples of one class, rising, shape (rows,). With replacement only their ratios matter.
        num_classes: Number of classes of that size, shape (rows,).
        replacement: Whether each sample is drawn from the whole dataset (i.i.d.), or a shuffled epoch is cut into
            batches.
    """

    sizes: Array
    num_classes: Array
    replacement: bool

    @property
    def num_samples(self) -> float:
        """Samples of the dataset."""
        return float(self.sizes @ self.num_classes)

    @property
    def all_classes(self) -> int:
        """Number of classes of all sizes together."""
        return int(self.num_classes.sum())

    def is_possible(self, min_per_class: int) -> NDArray[np.bool_]:
        """Whether some batch has ``min_per_class`` samples of a class, for each row."""
        return (self.sizes > 0) | (min_per_class == 0) if self.replacement else self.sizes >= min_per_class

    def probability_of_fewer(self, batch_size: int, min_per_class: int) -> Array:
        """The probability that a batch has fewer than ``min_per_class`` samples of a class, for each row.

        With replacement this is the tail of a binomial distribution, otherwise of a hypergeometric one.
        """
        sizes = torch.from_numpy(self.sizes)[:, None]
        all_samples = torch.tensor(self.num_samples, dtype=torch.float64, device="cpu")
        batch = torch.tensor(batch_size, dtype=torch.float64, device="cpu")
        drawn = torch.arange(min(min_per_class, batch_size + 1), dtype=torch.float64, device="cpu")
        if self.replacement:
            share = sizes / all_samples
            logs = _log_choose(batch, drawn)
            logs = logs + torch.special.xlogy(drawn, share) + torch.special.xlog1py(batch - drawn, -share)
        else:
            logs = _log_choose(sizes, drawn) + _log_choose(all_samples - sizes, batch - drawn)
            logs = logs - _log_choose(all_samples, batch)
        tail: Array = logs.exp().sum(dim=1).clamp(max=1.0).numpy()
        return tail


def check_draws(class_counts: ArrayLike, replacement: bool) -> ClassDraws:
    """The classes of a dataset, from the samples of each or from a number of equally frequent classes.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there is no class, a count is negative or not finite, or the counts are missing where draws
            without replacement need them.

    """
    replacement = check_bool("replacement", replacement)
    expected = "a number of classes >= 1, or the samples of each class, shape (classes,)"
    if is_number(class_counts):
        classes = check_int("class_counts", class_counts, 1, also="the samples of each class, shape (classes,)")
        if not replacement:
            wrong_value(
                "class_counts",
                "the samples of each class when drawing without replacement (or pass `replacement=True` for a large"
                " dataset)",
                class_counts,
            )
        return ClassDraws(np.ones(1), np.array([float(classes)]), replacement)
    counts = check_array("class_counts", class_counts, expected)
    if counts.ndim == 0:
        wrong_type("class_counts", expected, class_counts)
    if counts.ndim != 1 or len(counts) == 0:
        wrong_value("class_counts.shape", "(classes,) with at least one class", counts.shape)
    if not (np.all((counts >= 0) & (counts <= MAX_INT)) and counts.sum() > 0):
        wrong_value("class_counts", "finite numbers >= 0, not all of them 0", counts.tolist())
    if not replacement and np.any(counts % 1):
        wrong_value("class_counts", "whole numbers when drawing without replacement", counts.tolist())
    sizes, num_classes = np.unique(counts, return_counts=True)
    return ClassDraws(sizes, num_classes.astype(np.float64), replacement)


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    """Log of the binomial coefficient; ``-inf`` where it is zero."""
    possible = (k >= 0) & (k <= n)
    k = torch.where(possible, k, 0.0)
    logs = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return torch.where(possible, logs, -torch.inf)
