"""Where the learning rate and the batch size of a user's training are kept, and how they are read and written."""

from lightning_hp.hyperparameters.batch_size import BatchSize, apply_record, check_record
from lightning_hp.hyperparameters.batch_size_location import stated_batch_size
from lightning_hp.hyperparameters.learning_rate.home import check_home, write_home
from lightning_hp.hyperparameters.learning_rate.learning_rate import LearningRate
from lightning_hp.hyperparameters.learning_rate.rebuild import rebuild_optimizers
from lightning_hp.hyperparameters.learning_rate.schedule import Schedule
from lightning_hp.hyperparameters.learning_rate.simulation import first_decay
from lightning_hp.hyperparameters.learning_rate.warmup import Warmup

__all__ = [
    "BatchSize",
    "LearningRate",
    "Schedule",
    "Warmup",
    "apply_record",
    "check_home",
    "check_record",
    "first_decay",
    "rebuild_optimizers",
    "stated_batch_size",
    "write_home",
]
