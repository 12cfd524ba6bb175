"""Class frequencies of a training set, and batches that contain every class. Independent of Lightning."""

from lightning_hp.data.balanced_sampler import ClassBalancedBatchSampler
from lightning_hp.data.class_counts import ClassCounts, class_counts
from lightning_hp.data.classes import UnknownClasses

__all__ = [
    "ClassBalancedBatchSampler",
    "ClassCounts",
    "UnknownClasses",
    "class_counts",
]
