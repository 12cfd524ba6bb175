"""Operations on tensors of a user's subclass, as torch itself does them.

A subclass may override every operation, and fail in one that it was not written for: a result without its attributes.
"""

from __future__ import annotations

from torch import Tensor
from torch._C import DisableTorchFunctionSubclass

#: A context in which operations on tensors of a subclass are torch's own, and give plain tensors.
plain_operations = DisableTorchFunctionSubclass


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor has memory of its own; a sharded tensor and other wrappers of tensors have none."""
    return type(tensor).__torch_dispatch__ == Tensor.__torch_dispatch__
