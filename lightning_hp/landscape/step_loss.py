"""The loss of a module's ``training_step`` on some batches, as a function of its weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_hp.functional.sharpness.batch_loss import BatchLoss
from lightning_hp.landscape.restored import Restored
from lightning_hp.trainer import misconfiguration, written_into_stand_ins


def step_loss(
    trainer: Any,
    module: Any,
    batches: Sequence[tuple[Any, int]],
    batch_norm: Any,
    loss_function: Callable[[Any, Any], Any] | None,
    callbacks: Sequence[Any] = (),
) -> BatchLoss:
    """The mean loss of the module on batches, in the precision of the Trainer, in evaluation mode.

    Args:
        trainer: The Trainer.
        module: Its module.
        batches: Pairs of a batch and its number of samples.
        batch_norm: As in :class:`BatchLoss`.
        loss_function: Gets the module and a batch and returns the loss; ``None``: the loss of ``training_step``.
        callbacks: The Trainer's own callbacks, into which a step may write.

    """
    step = _Step(trainer, module, loss_function, callbacks)
    pairs = [((batch, index), range(size)) for index, (batch, size) in enumerate(batches)]
    return BatchLoss(step, pairs, lambda loss, _: loss, batch_norm=batch_norm)


class _Step(Restored):
    """A step as a module, so that its layers are those of the user's module."""

    def __init__(
        self,
        trainer: Any,
        module: Any,
        loss_function: Callable[[Any, Any], Any] | None,
        callbacks: Sequence[Any],
    ) -> None:
        super().__init__(module, callbacks)
        self._trainer = [trainer]  # no attribute that `nn.Module` looks into
        self._loss_function = loss_function
        self._takes_index = loss_function is None and _num_positional(module.training_step) > 1

    @override
    def call(self, arguments: tuple[Any, int]) -> Tensor:
        for written in written_into_stand_ins(self._trainer[0]):
            written.clear()
        batch, index = arguments
        with self._trainer[0].precision_plugin.train_step_context():
            if self._loss_function is not None:
                output = self._loss_function(self.model, batch)
            elif self._takes_index:
                output = self.model.training_step(batch, index)  # type: ignore[operator]
            else:
                output = self.model.training_step(batch)  # type: ignore[operator]
        loss = output.get("loss") if isinstance(output, dict) else output
        if not isinstance(loss, Tensor):
            source = "training_step" if self._loss_function is None else "loss"
            raise misconfiguration(
                self._trainer[0],
                f"Expected `{source}` to return a loss for each batch, but it returned {type(loss).__name__}; a"
                " landscape needs one. Give LossLandscape a function of module and batch as `loss`.",
            )
        return loss


def _num_positional(function: Callable[..., Any]) -> int:
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return 2
    return sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)
