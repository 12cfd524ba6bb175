"""What the callbacks found, as plain data: printed, logged, pickled and drawn from here."""

from lightning_hp.results.batch_size import BatchBound, BatchSizeResult, BatchTrial
from lightning_hp.results.learning_rate import RULES, LRFindResult

__all__ = [
    "RULES",
    "BatchBound",
    "BatchSizeResult",
    "BatchTrial",
    "LRFindResult",
]
