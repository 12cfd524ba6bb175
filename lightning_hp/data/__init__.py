"""What is trained on: how often each class comes, and batches that hold every class. Lightning is not needed."""

from lightning_hp.data.balanced_sampler import ClassBalancedBatchSampler
from lightning_hp.data.class_counts import ClassCounts, class_counts
from lightning_hp.data.classes import NoClasses

__all__ = [
    "ClassBalancedBatchSampler",
    "ClassCounts",
    "NoClasses",
    "class_counts",
]
