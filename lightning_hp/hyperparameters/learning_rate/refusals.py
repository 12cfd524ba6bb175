"""Refuses a training without a learning rate, and a schedule that cannot be moved to another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_hp.hyperparameters.learning_rate.home import Home
from lightning_hp.hyperparameters.learning_rate.numbers import ConfiguredOptimizers
from lightning_hp.hyperparameters.learning_rate.probe import can_rescale_without_home
from lightning_hp.hyperparameters.learning_rate.rescale import needs_simulation
from lightning_hp.trainer import misconfiguration

if TYPE_CHECKING:
    import pytorch_lightning as pl


def refuse_missing_lr(trainer: pl.Trainer, configured: ConfiguredOptimizers) -> None:
    """Raises ``MisconfigurationException`` if there is no optimizer, or a parameter group without a learning rate."""
    groups = list(configured.groups())
    if not groups:
        raise misconfiguration(trainer, "Expected `configure_optimizers` to return an optimizer, got none.")
    for (number, position), group in groups:
        if group.get("lr") is None:
            raise misconfiguration(
                trainer,
                f"Expected every parameter group to have a learning rate, got none in group {position} of"
                f" {type(configured.optimizers[number]).__name__}. Give it one, or leave its tuning to the optimizer.",
            )


def refuse_fixed_schedule(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    configured: ConfiguredOptimizers,
    home: Home | None,
    midway: bool,
) -> None:
    """Raises ``MisconfigurationException`` if ``LearningRate.apply`` would give another schedule than it should."""
    if home is not None:
        is_possible = home.probe.can_rescale or (home.probe.can_rebuild and not midway)
        advice = "Apply another rate before the training only (`milestones=(0,)`), or none (`update_attr=False`)."
    else:
        is_possible = not needs_simulation(configured, midway) or can_rescale_without_home(trainer, pl_module, midway)
        advice = "Before the training it can be built again: give the model an `lr` attribute that it is built on."
    if not is_possible:
        names = ", ".join(sorted({type(scheduler).__name__ for scheduler in configured.all_schedulers()}))
        raise misconfiguration(
            trainer,
            f"Expected a schedule that can be moved to another learning rate{' midway' if midway else ''}, got one"
            f" ({names}) that cannot: multiplying its rates does not give the schedule that is built on the new rate."
            f" {advice}",
        )
