"""The callback that records the losses and the numbers of samples of a rehearsed step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from lightning_hp.snapshot.attributes import attributes_of, slots_of
from lightning_hp.trainer import misconfiguration
from lightning_hp.trainer.base_classes import Callback

if TYPE_CHECKING:
    import pytorch_lightning as pl

# How deep the tensors of a batch may be nested in objects of the user's own classes.
_MAX_DEPTH = 4


def is_rehearsal(trainer: Any) -> bool:
    """Whether the Trainer currently runs the steps of a rehearsal."""
    return any(isinstance(callback, LossRecorder) for callback in trainer.callbacks)


class LoopLeft(Exception):  # noqa: N818 - not an error: it leaves Lightning's loop in a hook
    """Raised by the recorder in the hook that it was told."""


class LossRecorder(Callback):
    """Records the loss and the number of samples of each batch of a step.

    Args:
        needs_loss: Whether a module with several optimizers has to return a loss.

    """

    def __init__(self, needs_loss: bool = True) -> None:
        self._needs_loss = needs_loss
        self.losses: list[Tensor] = []
        self.num_samples: list[int | None] = []
        self.leaves_in: str | None = None  # the hook in which it raises `LoopLeft`, after those of other callbacks
        self._manual_losses: list[Tensor] = []

    def clear(self) -> None:
        """Deletes the records of the last step."""
        self.losses.clear()
        self.num_samples.clear()
        self._manual_losses.clear()

    @override
    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Leaves Lightning's loop before the step, where it is asked to."""
        self._leave_in("on_train_batch_start")

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Keeps the loss given to ``manual_backward``, for a ``training_step`` that returns nothing."""
        if not pl_module.automatic_optimization:
            self._manual_losses.append(loss.detach())

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Records the loss of the batch, without the factor of accumulation, and its size."""
        self.num_samples.append(num_samples_of(batch))
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if pl_module.automatic_optimization:
            if isinstance(loss, Tensor):
                self.losses.append(loss * trainer.accumulate_grad_batches)  # Lightning divided it
        else:
            self._record_manual(trainer, loss)

    @override
    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Leaves Lightning's loop after a batch, where it is asked to."""
        self._leave_in("on_validation_batch_end")

    def _leave_in(self, hook: str) -> None:
        if self.leaves_in == hook:
            raise LoopLeft

    def _record_manual(self, trainer: pl.Trainer, loss: Any) -> None:
        losses, self._manual_losses = self._manual_losses, []
        if isinstance(loss, Tensor):
            self.losses.append(loss.detach())
        elif len(trainer.strategy.optimizers) > 1:
            if not self._needs_loss:
                return
            raise misconfiguration(
                trainer,
                f"Expected `training_step` to return the loss that its {len(trainer.strategy.optimizers)} optimizers"
                " minimize together, but got none. Return it; if there is no such loss (a GAN), set the value by hand.",
            )
        elif losses:
            total = torch.stack(losses).sum()
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            # Not `get_scale()`, which waits for the accelerator.
            self.losses.append(total if scaler is None else total / scaler.scale(torch.ones_like(total)))


def num_samples_of(batch: Any) -> int | None:
    """The number of samples of a batch, as far as its tensors show it; with several loaders, of the first one's batch.

    It is the number that a batch of graphs, a packed sequence or a TensorDict states, else the first dimension of the
    first tensor or array, which may be nested in containers, mappings and objects. A batch of another form (a list of
    images, a tensor with time first) has another number there.

    Returns:
        The number; ``None`` if there is none.

    """
    return next(sizes_in(batch), None)


def sizes_in(batch: Any) -> Iterator[int]:
    """The numbers of samples that the parts of a batch show, in their order; :func:`num_samples_of` is the first."""
    return _sizes(batch, _MAX_DEPTH)


def _sizes(batch: Any, depth: int) -> Iterator[int]:
    for leaf in tree_leaves(batch, is_leaf=_states_its_size):
        if _states_its_size(leaf):
            yield _stated_size(leaf)
        elif isinstance(leaf, (Tensor, np.ndarray)):
            if leaf.ndim > 0:
                yield leaf.shape[0]
        elif depth:
            inside = leaf if isinstance(leaf, Mapping) else {**(attributes_of(leaf) or {}), **slots_of(leaf)}
            for value in inside.values():
                yield from _sizes(value, depth - 1)


def _states_its_size(batch: Any) -> bool:
    if isinstance(batch, PackedSequence):
        return True
    stated = getattr(batch, "num_graphs", None), getattr(batch, "batch_size", None)
    return isinstance(stated[0], int) or (isinstance(stated[1], torch.Size) and len(stated[1]) > 0)


def _stated_size(batch: Any) -> int:
    if isinstance(batch, PackedSequence):
        return int(batch.batch_sizes[0])
    graphs = getattr(batch, "num_graphs", None)
    return graphs if isinstance(graphs, int) else int(batch.batch_size[0])
