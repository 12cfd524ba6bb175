"""How a batch size is found: what bounds it, which sizes to try, how to try them.

``find.py`` runs a search: ``read_bounds.py`` reads what bounds the size from the Trainer (``bounds.py``), ``choice.py``
decides which sizes to run, ``trials.py`` runs them in a rehearsal, ``explanation.py`` describes the choice.
"""

from lightning_hp.tuning.batch_size.choice import Objective
from lightning_hp.tuning.batch_size.find import find_batch_size
from lightning_hp.tuning.batch_size.settings import (
    BatchSizeLimits,
    ClassOptions,
    Scaling,
    SearchSettings,
)

__all__ = [
    "BatchSizeLimits",
    "ClassOptions",
    "Objective",
    "Scaling",
    "SearchSettings",
    "find_batch_size",
]
