"""The state of objects, saved and restored bit for bit. Pure torch: Lightning is not imported here."""

from lightning_hp.snapshot.attributes import attributes_of, slots_of
from lightning_hp.snapshot.plain_operations import has_memory, plain_operations
from lightning_hp.snapshot.random_state import RandomState, undo_of_generator
from lightning_hp.snapshot.restore import (
    is_expanded,
    items_of,
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
    "has_memory",
    "is_expanded",
    "items_of",
    "plain_operations",
    "restore_array",
    "restore_dict",
    "restore_sequence",
    "restore_slots",
    "restore_tail",
    "slots_of",
    "undo_of_generator",
    "uninterrupted",
]
