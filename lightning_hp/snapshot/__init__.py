"""Remember the state of objects and restore it, bit for bit. Pure torch: Lightning is not known here."""

from lightning_hp.snapshot.attributes import attributes_of, slots_of
from lightning_hp.snapshot.random_state import RandomStreams, undo_of_stream
from lightning_hp.snapshot.restore import is_expanded, put_back_array, put_back_dict, put_back_sequence, put_back_slots
from lightning_hp.snapshot.snapshot import Snapshot

__all__ = [
    "RandomStreams",
    "Snapshot",
    "attributes_of",
    "is_expanded",
    "put_back_array",
    "put_back_dict",
    "put_back_sequence",
    "put_back_slots",
    "slots_of",
    "undo_of_stream",
]
