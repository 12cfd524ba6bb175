"""What cannot be rehearsed, refused before any step with what to do instead."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from lightning_hp.trainer import STRATEGIES_IN_WORDS, is_supported, misconfiguration


def refuse_what_cannot_be_rehearsed(trainer: Any, module: nn.Module) -> None:
    """Raises for a strategy that keeps state elsewhere, no optimizer, no batches, parameters without a shape."""
    strategy = trainer.strategy
    if not is_supported(strategy):
        raise misconfiguration(
            trainer,
            f"Expected a strategy whose training can be restored exactly ({STRATEGIES_IN_WORDS}), got"
            f" {type(strategy).__name__}. Tune under one of these.",
        )
    if not strategy.optimizers or type(strategy.optimizers[0]).__name__ == "_MockOptimizer":
        raise misconfiguration(
            trainer, "Expected `configure_optimizers` to return an optimizer, got none: there is nothing to tune."
        )
    if trainer.limit_train_batches == 0:
        raise misconfiguration(trainer, "Expected training batches to rehearse, got `limit_train_batches=0`.")
    lazy = [name for name, parameter in module.named_parameters() if _has_no_shape(parameter)]
    if lazy:
        raise misconfiguration(
            trainer,
            f"Expected initialized parameters, got uninitialized lazy ones: {', '.join(lazy[:3])}. Run one batch"
            " through the model before `fit`.",
        )


def refuse_one_way_data(trainer: Any, one_way: list[str]) -> None:
    """Raises for data that was met and cannot be started again."""
    if one_way:
        raise misconfiguration(
            trainer,
            f"Expected training data that can be started again, got {', '.join(one_way[:3])}: what a rehearsal"
            " draws from it would be lost to the training. Build the iterator inside `__iter__`, or give the data"
            " `state_dict` and `load_state_dict`, or use a loader with workers.",
        )


def _has_no_shape(parameter: Any) -> bool:
    return isinstance(parameter, UninitializedParameter)


def reason_not_to_rehearse(trainer: Any) -> str | None:
    """Why there is no training to rehearse, in half a sentence, or ``None``."""
    if trainer.fast_dev_run:
        return "since `fast_dev_run` is no training"
    if 0 in (trainer.max_epochs, trainer.max_steps, trainer.limit_train_batches):
        return "since nothing will be trained"
    return None
