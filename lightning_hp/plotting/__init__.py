"""Plots of results on matplotlib Axes. Nothing is shown or saved, and pyplot is not used.

Importing this package does not import matplotlib; plotting does.
"""

from lightning_hp.plotting.batch_size import plot_batch_size
from lightning_hp.plotting.landscape import plot_landscape, plot_landscapes
from lightning_hp.plotting.learning_rate import plot_learning_rate
from lightning_hp.plotting.noise_scale import plot_noise_scale
from lightning_hp.plotting.short_trainings import plot_short_trainings

__all__ = [
    "plot_batch_size",
    "plot_landscape",
    "plot_landscapes",
    "plot_learning_rate",
    "plot_noise_scale",
    "plot_short_trainings",
]
