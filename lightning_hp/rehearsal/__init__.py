"""The rehearsal: snapshot, step engine, restore. The one room that touches the Trainer's insides."""

from lightning_hp.rehearsal.actors import at_heaviest, changes_gradients, undecided_callbacks
from lightning_hp.rehearsal.alone import rehearse_alone
from lightning_hp.rehearsal.evaluation import EvaluationRehearsal, evaluation_loop
from lightning_hp.rehearsal.loaders import (
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
from lightning_hp.rehearsal.namespace import is_resuming, lightning_module_of, lightning_package, misconfiguration
from lightning_hp.rehearsal.random_streams import RandomStreams
from lightning_hp.rehearsal.ranks import apart, can_step_apart, reduce_over_ranks
from lightning_hp.rehearsal.recorder import is_rehearsal
from lightning_hp.rehearsal.reducer import exchange_gradients_of_trained, note_trained, reshard
from lightning_hp.rehearsal.rehearsal import (
    HOOKS_BEFORE_EPOCH,
    HOOKS_BEFORE_FIT,
    Rehearsal,
)
from lightning_hp.rehearsal.second_pass import SecondPass, optimized_parameters
from lightning_hp.rehearsal.silent_writes import SilentWrites
from lightning_hp.rehearsal.snapshot import Snapshot

__all__ = [
    "HOOKS_BEFORE_EPOCH",
    "HOOKS_BEFORE_FIT",
    "EvaluationRehearsal",
    "RandomStreams",
    "Rehearsal",
    "SecondPass",
    "SilentWrites",
    "Snapshot",
    "apart",
    "at_heaviest",
    "batch_size_of",
    "can_step_apart",
    "changes_gradients",
    "copy_loaders",
    "evaluation_loop",
    "exchange_gradients_of_trained",
    "flatten_loaders",
    "forms_its_batches",
    "is_rehearsal",
    "is_resizable",
    "is_resuming",
    "lightning_module_of",
    "lightning_package",
    "loader_roots",
    "misconfiguration",
    "note_trained",
    "optimized_parameters",
    "reduce_over_ranks",
    "rehearse_alone",
    "request_loaders",
    "reshard",
    "resize_loaders",
    "samples_of",
    "undecided_callbacks",
]
