"""How a batch size is found: what bounds it, which sizes to try, how to try them."""

from lightning_hp.tuning.batch_size.bounds import Asked, Scaling
from lightning_hp.tuning.batch_size.choice import Objective
from lightning_hp.tuning.batch_size.find import find_batch_size

__all__ = [
    "Asked",
    "Objective",
    "Scaling",
    "find_batch_size",
]
