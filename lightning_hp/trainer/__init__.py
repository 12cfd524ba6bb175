"""What is read of a Trainer besides its training loop: package, loaders, processes, loggers, strategy.

Private fields of Lightning are read only here, in ``rehearsal``, ``second_pass`` and ``hyperparameters``.
"""

from lightning_hp.trainer.ddp import has_bucket_views, note_trained, rebuild_ddp, reshard
from lightning_hp.trainer.loaders import (
    batch_size_of,
    copy_loaders,
    flatten_loaders,
    forms_its_batches,
    has_fixed_order,
    is_resizable,
    length_of,
    loader_roots,
    request_loaders,
    resize_loaders,
    samples_of,
)
from lightning_hp.trainer.logged import collect_apart, logs_now
from lightning_hp.trainer.loop_loaders import LoopLoaders, end_workers, release_loaders
from lightning_hp.trainer.muted import muted
from lightning_hp.trainer.namespace import (
    is_resuming,
    lightning_module_of,
    lightning_package,
    logged_hparams,
    logs_hparams,
    misconfiguration,
    misconfiguration_type,
)
from lightning_hp.trainer.optimizers import (
    build_optimizers,
    building_without_effects,
    num_parameter_hooks,
    training_has_begun,
)
from lightning_hp.trainer.progress import simulated_progress
from lightning_hp.trainer.ranks import (
    independent_ranks,
    ranks_are_independent,
    ranks_can_be_independent,
    reduce_over_ranks,
    start_method,
)
from lightning_hp.trainer.stand_ins import StandIn, is_hook, no_op, written_into_stand_ins
from lightning_hp.trainer.supported import STRATEGIES_IN_WORDS, is_supported, uninitialized_parameters
from lightning_hp.trainer.timers import count_seconds, seconds_left

__all__ = [
    "STRATEGIES_IN_WORDS",
    "LoopLoaders",
    "StandIn",
    "batch_size_of",
    "build_optimizers",
    "building_without_effects",
    "collect_apart",
    "copy_loaders",
    "count_seconds",
    "end_workers",
    "flatten_loaders",
    "forms_its_batches",
    "has_bucket_views",
    "has_fixed_order",
    "independent_ranks",
    "is_hook",
    "is_resizable",
    "is_resuming",
    "is_supported",
    "length_of",
    "lightning_module_of",
    "lightning_package",
    "loader_roots",
    "logged_hparams",
    "logs_hparams",
    "logs_now",
    "misconfiguration",
    "misconfiguration_type",
    "muted",
    "no_op",
    "note_trained",
    "num_parameter_hooks",
    "ranks_are_independent",
    "ranks_can_be_independent",
    "rebuild_ddp",
    "reduce_over_ranks",
    "release_loaders",
    "request_loaders",
    "reshard",
    "resize_loaders",
    "samples_of",
    "seconds_left",
    "simulated_progress",
    "start_method",
    "training_has_begun",
    "uninitialized_parameters",
    "written_into_stand_ins",
]
