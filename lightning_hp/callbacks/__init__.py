"""The callbacks: when to act, what to log. The mathematics is in ``functional``, the steps are run by ``rehearsal``."""

from lightning_hp.callbacks.backbone_freezing import BackboneFreezing
from lightning_hp.callbacks.batch_size_scaler import BatchSizeScaler
from lightning_hp.callbacks.gradient_noise_scale import GradientNoiseScale
from lightning_hp.callbacks.hparams_logger import HParamsLogger
from lightning_hp.callbacks.loss_landscape import LossLandscape
from lightning_hp.callbacks.lr_finder import LRFinder
from lightning_hp.callbacks.pruning import PruningCallback
from lightning_hp.callbacks.sam import SAM

__all__ = [  # noqa: RUF022 - plain order; ruff takes SAM for a constant
    "BackboneFreezing",
    "BatchSizeScaler",
    "GradientNoiseScale",
    "HParamsLogger",
    "LRFinder",
    "LossLandscape",
    "PruningCallback",
    "SAM",
]
