"""The optimizers and schedulers of a running Trainer: what they were built on, and whether they can be moved."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_hp.hyperparameters.learning_rate.home import SOME_RATE, Home
from lightning_hp.hyperparameters.learning_rate.numbers import Configured
from lightning_hp.hyperparameters.learning_rate.probe import is_repeatable, is_scalable
from lightning_hp.hyperparameters.learning_rate.rebase import needs_trial
from lightning_hp.snapshot import RandomStreams
from lightning_hp.trainer import lightning_module_of, misconfiguration

if TYPE_CHECKING:
    import pytorch_lightning as pl


def configured_in(trainer: pl.Trainer) -> Configured:
    """The optimizers and schedulers that the Trainer uses."""
    strategy = trainer.strategy
    return Configured(strategy.optimizers, [config.scheduler for config in strategy.lr_scheduler_configs])


def has_begun(trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
    """Whether there is a training to lose by building the optimizers anew: any hook but ``on_fit_start``, any step."""
    if pl_module._current_fx_name != "on_fit_start":
        return True
    states = (state for optimizer in trainer.strategy.optimizers for state in optimizer.state.values())
    # Adagrad makes its state before the first step.
    return any(not isinstance(state, dict) or float(state.get("step", 1)) > 0 for state in states)


def build_optimizers(trainer: pl.Trainer) -> None:
    """Builds optimizers and schedulers anew through the strategy, as ``fit`` does; the random streams stay."""
    strategy = trainer.strategy
    streams = RandomStreams(strategy.root_device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `fit` has said it already
            strategy.setup_optimizers(trainer)
        # What `Strategy.setup` does with new optimizers; the model has been through it and must not go again.
        _, strategy.optimizers, strategy.lr_scheduler_configs = strategy.precision_plugin.connect(
            trainer.lightning_module if strategy.model is None else strategy.model,
            strategy.optimizers,
            strategy.lr_scheduler_configs,
        )
        strategies = lightning_module_of(trainer, "strategies.strategy")
        strategies._optimizers_to_device(strategy.optimizers, strategy.root_device)
    finally:
        streams.restore()


def renew_optimizers(trainer: pl.Trainer) -> None:
    """Builds optimizers and schedulers anew at the same rates: what else they depend on is another now.

    A schedule may be as long as the training has steps, which a new batch size changes. Midway, or where
    ``configure_optimizers`` puts hooks on parameters, nothing happens.
    """
    pl_module = trainer.lightning_module
    if not has_begun(trainer, pl_module) and is_repeatable(trainer, pl_module):
        build_optimizers(trainer)


def live_value(trainer: pl.Trainer, configured: Configured, home: Home | None, midway: bool) -> float:
    """The learning rate that the existing optimizers and schedulers were built on, in terms of the home.

    Before the training a home may hold 0, "to be found": any number then serves to tell the groups' ratios.

    Raises:
        MisconfigurationException: If there is none: all rates are zero.

    """
    ratios = dict.fromkeys(configured.base_rates(), 1.0) if home is None else home.probe.ratios
    for key, base in configured.base_rates().items():
        if base > 0 and key in ratios:
            schedulers = configured.schedulers_of(key[0])
            forgets = bool(schedulers) and all(isinstance(scheduler, ReduceLROnPlateau) for scheduler in schedulers)
            if forgets and home is not None and home.value:  # it keeps no record of where it began
                return home.value
            return base / ratios[key]
    if home is not None and not midway:
        return SOME_RATE
    raise misconfiguration(trainer, "Expected a parameter group with a learning rate > 0, got none.")


def refuse_without_rates(trainer: pl.Trainer, configured: Configured) -> None:
    """Raises ``MisconfigurationException`` where there is no learning rate to speak of."""
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


def refuse_what_cannot_be_rebased(
    trainer: pl.Trainer, pl_module: pl.LightningModule, configured: Configured, home: Home | None, midway: bool
) -> None:
    """Raises ``MisconfigurationException`` where :meth:`LearningRate.apply` could not keep its promise."""
    if home is not None:
        possible = home.probe.scalable or (home.probe.repeatable and not midway)
        advice = "Apply another rate before the training only."
    else:
        possible = not needs_trial(configured, midway) or is_scalable(trainer, pl_module, midway)
        advice = "Before the training it can be built anew: give the model an `lr` attribute that it is built on."
    if not possible:
        names = ", ".join(sorted({type(scheduler).__name__ for scheduler in configured.all_schedulers()}))
        raise misconfiguration(
            trainer,
            f"Expected a schedule that can be moved to another learning rate{' midway' if midway else ''}, got one"
            f" ({names}) that cannot: multiplying its rates gives another schedule than typing a rate would. {advice}",
        )
