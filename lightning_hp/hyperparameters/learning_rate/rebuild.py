"""Builds the optimizers of a training again, and tells whether that is possible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_hp.hyperparameters.learning_rate.numbers import ConfiguredOptimizers
from lightning_hp.trainer import (
    build_optimizers,
    building_without_effects,
    num_parameter_hooks,
    training_has_begun,
)

if TYPE_CHECKING:
    import pytorch_lightning as pl


def current_optimizers(trainer: pl.Trainer) -> ConfiguredOptimizers:
    """Returns the optimizers and schedulers that the Trainer uses."""
    strategy = trainer.strategy
    return ConfiguredOptimizers(strategy.optimizers, [config.scheduler for config in strategy.lr_scheduler_configs])


def rebuild_optimizers(trainer: pl.Trainer) -> None:
    """Builds optimizers and schedulers again at the same learning rate, after something that they depend on changed.

    A schedule may depend on the number of training steps, which a new batch size changes.

    Args:
        trainer: A Trainer inside ``fit``.

    Note:
        Does nothing during the training, or where ``configure_optimizers`` cannot run again (see :func:`can_rebuild`).

    """
    pl_module = trainer.lightning_module
    if not training_has_begun(trainer, pl_module) and can_rebuild(trainer, pl_module):
        build_optimizers(trainer)


def can_rebuild(trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
    """Whether ``configure_optimizers`` may run again: it adds no hooks to parameters, which would then run twice."""
    num_hooks = num_parameter_hooks(pl_module)
    with building_without_effects(trainer, pl_module) as build:
        build()
        return num_parameter_hooks(pl_module) == num_hooks
