"""The arguments of a training step, recorded so that the step can be called with them again."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_hp.second_pass.reachable import Reachable
from lightning_hp.second_pass.writes import fingerprints
from lightning_hp.snapshot import plain_operations
from lightning_hp.trainer import misconfiguration


class RecordedCall:
    """The arguments of one call of ``training_step``.

    A step may modify the containers and objects of its batch: they are restored in place. Tensors are shared and
    watched for writes.

    Args:
        trainer: The Trainer.
        args: The positional arguments.
        kwargs: The keyword arguments.
        detect_uncounted: Whether :meth:`end_first_pass` also detects writes that torch does not count, by a fingerprint
            of all bits. Takes two passes over the batch.

    Raises:
        MisconfigurationException: If a tensor of the batch is part of an autograd graph, or the batch holds an
            iterator.

    """

    def __init__(self, trainer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, detect_uncounted: bool) -> None:
        self._trainer = trainer
        self.args, self.kwargs = args, kwargs
        self._before = self._visit()
        self._after: Reachable | None = None
        if self._before.iterators:
            raise misconfiguration(
                trainer,
                f"Expected a batch that can be read twice, but got an iterator in it ({self._before.iterators[0]}): SAM"
                " repeats the step on the same batch. Put a list into the batch.",
            )
        with plain_operations():
            self._tensors = [tensor for tensor in self._before.tensors if not tensor.is_inference()]
            self._versions = _versions(self._tensors)
            self._fingerprints = fingerprints(self._tensors) if detect_uncounted else []
            has_graph = any(tensor.grad_fn is not None for tensor in self._tensors)
        if has_graph:
            raise misconfiguration(
                trainer,
                "Expected a batch without autograd graphs, but got a tensor that is part of one: SAM runs the"
                " backward pass twice, and the first pass frees the graph. Compute the tensor in `training_step`, or"
                " detach it.",
            )

    def end_first_pass(self) -> None:
        """Saves the state that the first pass has left.

        Raises:
            MisconfigurationException: If a tensor of the batch has been written.

        """
        with plain_operations():
            is_written = _versions(self._tensors) != self._versions
        if is_written or (self._fingerprints and fingerprints(self._tensors) != self._fingerprints):
            raise misconfiguration(
                self._trainer,
                "Expected `training_step` not to modify its batch, but got a tensor of it that was written in place:"
                " SAM repeats the step on the same batch. Work on a copy (`x = x.clone()`), or write in"
                " `on_after_batch_transfer`.",
            )
        self._after = self._visit(self._before)

    def rewind(self) -> None:
        """Restores containers and objects to their state before the first pass, and deletes gradients of tensors.

        A step may have computed gradients of its input.
        """
        self._before.restore()
        with plain_operations():
            for tensor in self._tensors:
                if tensor.is_leaf and tensor.grad is not None:
                    tensor.grad = None

    def restore(self) -> None:
        """Restores containers and objects to the state that the first pass has left."""
        assert self._after is not None
        self._after.restore()

    def _visit(self, earlier: Reachable | None = None) -> Reachable:
        found = Reachable()
        found.visit([self.args, self.kwargs], earlier)
        return found


def _versions(tensors: list[Tensor]) -> list[int]:
    return [tensor._version for tensor in tensors]
