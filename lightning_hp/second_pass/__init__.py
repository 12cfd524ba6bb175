"""The second forward and backward pass of SAM through a training step."""

from lightning_hp.second_pass.second_pass import SecondPass, optimized_parameters
from lightning_hp.second_pass.uncounted_writes import UncountedWrites

__all__ = [
    "SecondPass",
    "UncountedWrites",
    "optimized_parameters",
]
