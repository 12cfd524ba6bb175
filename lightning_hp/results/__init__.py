"""Results of the callbacks as frozen dataclasses: printed, pickled, converted to JSON, logged and plotted."""

from lightning_hp.results.batch_size import BatchBound, BatchSizeResult, BatchTrial
from lightning_hp.results.landscape import LandscapeComparison, LandscapeResult, Rise
from lightning_hp.results.learning_rate import LearningRateResult
from lightning_hp.results.noise_scale import NoiseScaleResult
from lightning_hp.results.sweep import SettingSummary, SubjectEffect, SweepResult, SweepTrial

__all__ = [
    "BatchBound",
    "BatchSizeResult",
    "BatchTrial",
    "LandscapeComparison",
    "LandscapeResult",
    "LearningRateResult",
    "NoiseScaleResult",
    "Rise",
    "SettingSummary",
    "SubjectEffect",
    "SweepResult",
    "SweepTrial",
]
