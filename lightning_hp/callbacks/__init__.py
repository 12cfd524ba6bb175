"""The callbacks: when to act, what to log. The maths is in ``functional``, the steps are run by ``rehearsal``."""

from lightning_hp.callbacks.batch_size_scaler import BatchSizeScaler
from lightning_hp.callbacks.lr_finder import LRFinder

__all__ = ["BatchSizeScaler", "LRFinder"]
