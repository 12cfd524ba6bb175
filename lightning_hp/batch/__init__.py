"""The batch size between maths and glue: what bounds it, which sizes to try, how to try them."""

from lightning_hp.batch.bounds import Asked, Scaling
from lightning_hp.batch.choice import Objective
from lightning_hp.batch.find import find_batch_size

__all__ = ["Asked", "Objective", "Scaling", "find_batch_size"]
