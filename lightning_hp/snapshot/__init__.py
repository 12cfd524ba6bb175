"""The state of objects, saved and restored bit for bit. Pure torch: Lightning is not imported here."""

from lightning_hp.snapshot.attributes import attributes_of, slots_of
from lightning_hp.snapshot.callbacks import (
    attributes_of_callback,
    is_callback,
    is_opened_in_callback,
    running_callbacks,
)
from lightning_hp.snapshot.plain_operations import has_memory, plain_operations
from lightning_hp.snapshot.random_state import RandomState, undo_of_generator
from lightning_hp.snapshot.restore import (
    copy_array,
    is_expanded,
    items_of,
    items_of_sequence,
    restore_array,
    restore_dict,
    restore_sequence,
    restore_slots,
    restore_tail,
)
from lightning_hp.snapshot.snapshot import Snapshot
from lightning_hp.snapshot.undo import Undo, uninterrupted

__all__ = [
    "RandomState",
    "Snapshot",
    "Undo",
    "attributes_of",
    "attributes_of_callback",
    "copy_array",
    "has_memory",
    "is_callback",
    "is_expanded",
    "is_opened_in_callback",
    "items_of",
    "items_of_sequence",
    "plain_operations",
    "restore_array",
    "restore_dict",
    "restore_sequence",
    "restore_slots",
    "restore_tail",
    "running_callbacks",
    "slots_of",
    "undo_of_generator",
    "uninterrupted",
]
