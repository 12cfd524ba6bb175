"""Where a user's learning rate and batch size live, how they are read and how they are written."""

from lightning_hp.hyperparameters.attributes import NamedAttribute, Place, as_number, find_attribute
from lightning_hp.hyperparameters.batch_size import BatchSize, apply_record, release_loaders, stated_batch_size
from lightning_hp.hyperparameters.home import Home, write_home
from lightning_hp.hyperparameters.learning_rate import LearningRate
from lightning_hp.hyperparameters.live import renew_optimizers
from lightning_hp.hyperparameters.parameter_free import is_parameter_free
from lightning_hp.hyperparameters.warmup import Warmup

__all__ = [
    "BatchSize",
    "Home",
    "LearningRate",
    "NamedAttribute",
    "Place",
    "Warmup",
    "apply_record",
    "as_number",
    "find_attribute",
    "is_parameter_free",
    "release_loaders",
    "renew_optimizers",
    "stated_batch_size",
    "write_home",
]
