"""The trainings of which LossLandscape measures nothing. They are refused before the first step, with advice."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from lightning_hp.functional.gradients import is_sharded
from lightning_hp.trainer import misconfiguration, uninitialized_parameters


def refuse_setting(trainer: Any, module: Any, has_loss: bool) -> None:
    """Raises for a training whose loss cannot be evaluated at other weights.

    Args:
        trainer: The Trainer.
        module: Its module.
        has_loss: Whether the user gave a loss of module and batch.

    Raises:
        MisconfigurationException: For manual optimization or ``dataloader_iter`` without a loss, lazy layers, and
            sharded weights.

    """
    if not has_loss and not module.automatic_optimization:
        raise misconfiguration(
            trainer,
            "LossLandscape: expected automatic optimization, but got `automatic_optimization = False`, where"
            " `training_step` changes the weights. Give a function of module and batch as `loss`.",
        )
    if not has_loss and "dataloader_iter" in inspect.signature(module.training_step).parameters:
        raise misconfiguration(
            trainer,
            "LossLandscape: expected `training_step(batch, batch_idx)`, but got one with `dataloader_iter`. Take the"
            " batch as an argument, or give a function of module and batch as `loss`.",
        )
    if lazy := uninitialized_parameters(module):
        raise misconfiguration(
            trainer,
            f"LossLandscape: expected initialized parameters, but got lazy ones: {', '.join(lazy[:3])}. Run one batch"
            " through the module before `fit`.",
        )
    if any(map(is_sharded, module.parameters())) or "FSDP" in type(trainer.strategy).__name__:
        raise misconfiguration(
            trainer,
            "LossLandscape: expected whole weights on each process, but they are sharded"
            f" ({type(trainer.strategy).__name__}). Train under DDP, or compare checkpoints afterwards with"
            " `compare_landscapes`.",
        )


def refuse_iterators(trainer: Any, iterators: Sequence[str], has_loss: bool) -> None:
    """Raises for a module that holds an iterator, unless the user gave a loss.

    Args:
        trainer: The Trainer.
        iterators: Where on the module they are.
        has_loss: Whether the user gave a loss of module and batch.

    Raises:
        MisconfigurationException: If there is one.

    """
    if iterators and not has_loss:
        raise misconfiguration(
            trainer,
            "LossLandscape: expected a module whose state can be restored, but it holds"
            f" {', '.join(iterators[:3])}: what a step draws from it would be lost to the training. Give a function"
            " of module and batch as `loss` that does not draw from it.",
        )
