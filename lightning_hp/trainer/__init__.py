"""What is read of a Trainer besides its training: its package, loaders, processes, loggers, strategy."""

from lightning_hp.trainer.loaders import (
    batch_size_of,
    copy_loaders,
    flatten_loaders,
    forms_its_batches,
    is_resizable,
    loader_roots,
    request_loaders,
    resize_loaders,
    samples_of,
)
from lightning_hp.trainer.muted import SilentLogger
from lightning_hp.trainer.namespace import is_resuming, lightning_module_of, lightning_package, misconfiguration
from lightning_hp.trainer.ranks import (
    apart,
    can_step_apart,
    exchange_gradients_of_trained,
    is_apart,
    note_trained,
    reduce_over_ranks,
    reshard,
)
from lightning_hp.trainer.supported import STRATEGIES_IN_WORDS, is_supported

__all__ = [
    "STRATEGIES_IN_WORDS",
    "SilentLogger",
    "apart",
    "batch_size_of",
    "can_step_apart",
    "copy_loaders",
    "exchange_gradients_of_trained",
    "flatten_loaders",
    "forms_its_batches",
    "is_apart",
    "is_resizable",
    "is_resuming",
    "is_supported",
    "lightning_module_of",
    "lightning_package",
    "loader_roots",
    "misconfiguration",
    "note_trained",
    "reduce_over_ranks",
    "request_loaders",
    "reshard",
    "resize_loaders",
    "samples_of",
]
