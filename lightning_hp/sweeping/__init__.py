"""A sweep over settings: subjects, strategies, one training, the record of all, and where they run.

The folder is not called ``sweep``, which is the function: ``from lightning_hp import sweep``.
"""

from lightning_hp.sweeping.executors import RayExecutor
from lightning_hp.sweeping.runner import SweepError
from lightning_hp.sweeping.sweep import sweep

__all__ = ["RayExecutor", "SweepError", "sweep"]
