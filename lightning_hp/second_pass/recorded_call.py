"""The arguments of a training step, recorded so that the step can be called with them again."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_hp.second_pass.batch_copy import copy_batch
from lightning_hp.second_pass.uncounted_writes import fingerprints
from lightning_hp.trainer import misconfiguration


class RecordedCall:
    """The arguments of one call of ``training_step``. Containers are copied; tensors are shared and watched for writes.

    Args:
        trainer: The Trainer.
        args: The positional arguments.
        kwargs: The keyword arguments.
        detect_uncounted: Whether :meth:`refuse_writes` also detects writes that torch does not count, by a fingerprint
            of all bits. Takes two passes over the batch.

    Raises:
        MisconfigurationException: If a tensor of the batch is part of an autograd graph.

    """

    def __init__(self, trainer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, detect_uncounted: bool) -> None:
        self._trainer = trainer
        copied, tensors = copy_batch((args, kwargs))
        self.args: tuple[Any, ...] = copied[0]
        self.kwargs: dict[str, Any] = copied[1]
        self._tensors = [tensor for tensor in tensors if not tensor.is_inference()]
        self._versions = _versions(self._tensors)
        self._fingerprints = fingerprints(self._tensors) if detect_uncounted else []
        if any(tensor.grad_fn is not None for tensor in self._tensors):
            raise misconfiguration(
                trainer,
                "Expected a batch without autograd graphs, but got a tensor that is part of one: SAM runs the"
                " backward pass twice, and the first pass frees the graph. Compute the tensor in `training_step`, or"
                " detach it.",
            )

    def refuse_writes(self) -> None:
        """Raises if a tensor of the batch has been written since the recording."""
        is_written = _versions(self._tensors) != self._versions
        if is_written or (self._fingerprints and fingerprints(self._tensors) != self._fingerprints):
            raise misconfiguration(
                self._trainer,
                "Expected `training_step` not to modify its batch, but got a tensor of it that was written in place:"
                " SAM repeats the step on the same batch. Work on a copy (`x = x.clone()`), or write in"
                " `on_after_batch_transfer`.",
            )

    def clear_gradients(self) -> None:
        """Sets ``.grad`` of the batch's leaf tensors to ``None``: a step may have computed gradients of its input."""
        for tensor in self._tensors:
            if tensor.is_leaf and tensor.grad is not None:
                tensor.grad = None


def _versions(tensors: list[Tensor]) -> list[int]:
    return [tensor._version for tensor in tensors]
