"""The second forward and backward pass of SAM through a training step."""

from lightning_hp.second_pass.second_pass import SecondPass, optimized_parameters
from lightning_hp.second_pass.writes import Writes

__all__ = [
    "SecondPass",
    "Writes",
    "optimized_parameters",
]
