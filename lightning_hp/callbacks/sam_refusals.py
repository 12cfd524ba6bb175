"""What SAM cannot act in, refused before the first step with what to do instead."""

from __future__ import annotations

import inspect
from typing import Any

from lightning_hp.trainer import STRATEGIES_IN_WORDS, is_supported, misconfiguration


def refuse_setting(trainer: Any, pl_module: Any, needs_end: bool) -> None:
    """Raises for manual optimization, a foreign strategy, a step that draws its own batches, a training without end."""
    if not pl_module.automatic_optimization:
        raise misconfiguration(
            trainer,
            "SAM: expected automatic optimization, got `automatic_optimization = False`: the step is your own code"
            " then. Return the loss from `training_step` instead, or use `lightning_hp.functional.Perturbation` in it.",
        )
    if not is_supported(trainer.strategy):
        raise misconfiguration(
            trainer,
            "SAM: expected a strategy whose weights and gradients are in the module"
            f" ({STRATEGIES_IN_WORDS}), got {type(trainer.strategy).__name__}. Train under one of these.",
        )
    if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
        raise misconfiguration(
            trainer,
            "SAM: expected `training_step(batch, batch_idx)`, got one with `dataloader_iter`: a batch that it draws"
            " cannot be drawn twice. Take the batch as an argument.",
        )
    if needs_end and trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise misconfiguration(
            trainer,
            "SAM: expected a training with an end, which `start` and `warmup` are shares of, got `max_epochs=-1`. Set"
            " `max_epochs` or `max_steps`.",
        )


def refuse_second(trainer: Any, all_of_them: list[Any]) -> None:
    """Raises for two: each would repeat the step of the other."""
    number = len(set(map(id, all_of_them)))
    if number > 1:
        raise misconfiguration(
            trainer, f"SAM: expected one SAM, got {number}: each would climb by itself. Leave one in `callbacks`."
        )


def refuse_optimizer(trainer: Any) -> None:
    """Raises for optimizers that go backward more than once by themselves, and for none."""
    for optimizer in trainer.optimizers:
        names = [base.__name__ for base in type(optimizer).__mro__]
        if "_MockOptimizer" in names:
            raise misconfiguration(trainer, "SAM: expected `configure_optimizers` to return an optimizer, got none.")
        if "LBFGS" in names:
            raise misconfiguration(
                trainer,
                "SAM: expected an optimizer that takes one gradient a step, got LBFGS, which asks for many. Use SGD,"
                " Adam or another first-order optimizer.",
            )
        if any(name.endswith("SAM") for name in names) or hasattr(optimizer, "first_step"):
            raise misconfiguration(
                trainer,
                f"SAM: expected the base optimizer, got {type(optimizer).__name__}, which is SAM already and asks for a"
                " closure of its own. Return its base optimizer (SGD, AdamW ...) from `configure_optimizers`.",
            )
