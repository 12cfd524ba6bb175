"""The rehearsal: snapshot, step engine, restore. The one room that touches the Trainer's insides."""

from lightning_hp.rehearsal.actors import changes_gradients, undecided_callbacks
from lightning_hp.rehearsal.alone import rehearse_alone
from lightning_hp.rehearsal.namespace import is_resuming, lightning_module_of, lightning_package, misconfiguration
from lightning_hp.rehearsal.recorder import is_rehearsal
from lightning_hp.rehearsal.rehearsal import (
    HOOKS_BEFORE_EPOCH,
    HOOKS_BEFORE_FIT,
    Rehearsal,
)
from lightning_hp.rehearsal.second_pass import SecondPass
from lightning_hp.rehearsal.snapshot import RandomStreams, Snapshot

__all__ = [
    "HOOKS_BEFORE_EPOCH",
    "HOOKS_BEFORE_FIT",
    "RandomStreams",
    "Rehearsal",
    "SecondPass",
    "Snapshot",
    "changes_gradients",
    "is_rehearsal",
    "is_resuming",
    "lightning_module_of",
    "lightning_package",
    "misconfiguration",
    "rehearse_alone",
    "undecided_callbacks",
]
