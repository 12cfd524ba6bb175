"""Callbacks for Lightning that choose hyperparameters by rehearsing the training and then restore every state.

``import lightning_hp.functional as hpf`` imports the mathematics without Lightning. Names that need Lightning, models
or data are therefore loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_hp import functional
from lightning_hp.results import (
    BatchBound,
    BatchSizeResult,
    BatchTrial,
    LandscapeComparison,
    LandscapeResult,
    LearningRateResult,
    NoiseScaleResult,
    Rise,
    SettingSummary,
    SubjectEffect,
    SweepResult,
    SweepTrial,
)

if TYPE_CHECKING:
    from lightning_hp.callbacks import (
        SAM,
        BackboneFreezing,
        BatchSizeScaler,
        GradientNoiseScale,
        HParamsLogger,
        LossLandscape,
        LRFinder,
        PruningCallback,
    )
    from lightning_hp.data import ClassBalancedBatchSampler
    from lightning_hp.landscape import compare_landscapes
    from lightning_hp.module import Classifier, ClassifierMixin
    from lightning_hp.nn import Backbone, ClassifierHead, InferenceSpeed
    from lightning_hp.sweeping import RayExecutor, SweepError, sweep

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - plain order; ruff takes SAM for a constant
    "Backbone",
    "BackboneFreezing",
    "BatchBound",
    "BatchSizeResult",
    "BatchSizeScaler",
    "BatchTrial",
    "ClassBalancedBatchSampler",
    "Classifier",
    "ClassifierHead",
    "ClassifierMixin",
    "GradientNoiseScale",
    "HParamsLogger",
    "InferenceSpeed",
    "LRFinder",
    "LandscapeComparison",
    "LandscapeResult",
    "LearningRateResult",
    "LossLandscape",
    "NoiseScaleResult",
    "PruningCallback",
    "RayExecutor",
    "Rise",
    "SAM",
    "SettingSummary",
    "SubjectEffect",
    "SweepError",
    "SweepResult",
    "SweepTrial",
    "compare_landscapes",
    "functional",
    "sweep",
]

_ON_FIRST_USE = {
    "Backbone": "lightning_hp.nn",
    "BackboneFreezing": "lightning_hp.callbacks",
    "BatchSizeScaler": "lightning_hp.callbacks",
    "ClassBalancedBatchSampler": "lightning_hp.data",
    "Classifier": "lightning_hp.module",
    "ClassifierHead": "lightning_hp.nn",
    "ClassifierMixin": "lightning_hp.module",
    "GradientNoiseScale": "lightning_hp.callbacks",
    "HParamsLogger": "lightning_hp.callbacks",
    "InferenceSpeed": "lightning_hp.nn",
    "LRFinder": "lightning_hp.callbacks",
    "LossLandscape": "lightning_hp.callbacks",
    "PruningCallback": "lightning_hp.callbacks",
    "RayExecutor": "lightning_hp.sweeping",
    "SAM": "lightning_hp.callbacks",
    "SweepError": "lightning_hp.sweeping",
    "compare_landscapes": "lightning_hp.landscape",
    "sweep": "lightning_hp.sweeping",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_ON_FIRST_USE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
