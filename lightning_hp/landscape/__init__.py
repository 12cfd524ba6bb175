"""Loss landscapes of trained models: the loss of a training step on stored batches, measured, and compared."""

from lightning_hp.landscape.compare import compare_landscapes
from lightning_hp.landscape.kept_batches import KeptBatches, fingerprint
from lightning_hp.landscape.measure import NoLandscapeError, Path, Share, evaluated, measure
from lightning_hp.landscape.no_trace import no_trace, same_on_all_ranks
from lightning_hp.landscape.path import TrainingPath
from lightning_hp.landscape.settings import LandscapeSettings
from lightning_hp.landscape.step_loss import step_loss

__all__ = [
    "KeptBatches",
    "LandscapeSettings",
    "NoLandscapeError",
    "Path",
    "Share",
    "TrainingPath",
    "compare_landscapes",
    "evaluated",
    "fingerprint",
    "measure",
    "no_trace",
    "same_on_all_ranks",
    "step_loss",
]
