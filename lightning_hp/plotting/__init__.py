"""Draws a result on Axes; shows and saves nothing, and leaves pyplot's global figures alone."""

from lightning_hp.plotting.batch_size import plot_batch_size
from lightning_hp.plotting.learning_rate import plot_lr_find

__all__ = [
    "plot_batch_size",
    "plot_lr_find",
]
