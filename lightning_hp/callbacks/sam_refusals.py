"""The trainings in which SAM cannot act. They are refused before the first step, with advice."""

from __future__ import annotations

import inspect
from typing import Any

from lightning_hp.trainer import STRATEGIES_IN_WORDS, is_supported, misconfiguration, uninitialized_parameters


def refuse_setting(trainer: Any, pl_module: Any, needs_end: bool) -> None:
    """Raises for manual optimization, another strategy, lazy layers, a step that draws batches, an endless training.

    Args:
        trainer: The Trainer.
        pl_module: Its module.
        needs_end: Whether a training without an end is refused.

    Raises:
        MisconfigurationException: For each of these.

    """
    if not pl_module.automatic_optimization:
        raise misconfiguration(
            trainer,
            "SAM: expected automatic optimization, but got `automatic_optimization = False`, where the step is your own"
            " code. Return the loss from `training_step` instead, or use `lightning_hp.functional.Perturbation` in it.",
        )
    if not is_supported(trainer.strategy):
        raise misconfiguration(
            trainer,
            "SAM: expected a strategy whose weights and gradients are in the module"
            f" ({STRATEGIES_IN_WORDS}), but got {type(trainer.strategy).__name__}. Train under one of these.",
        )
    refuse_lazy_layers(trainer, pl_module)
    if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
        raise misconfiguration(
            trainer,
            "SAM: expected `training_step(batch, batch_idx)`, but got one with `dataloader_iter`: a batch that the step"
            " draws cannot be drawn twice. Take the batch as an argument.",
        )
    if needs_end and trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise misconfiguration(
            trainer,
            "SAM: expected a training with an end, which `start` and `warmup` are shares of, but got `max_epochs=-1`."
            " Set `max_epochs` or `max_steps`.",
        )


def refuse_lazy_layers(trainer: Any, pl_module: Any) -> None:
    """Raises for lazy layers that have seen no batch.

    Raises:
        MisconfigurationException: If a parameter or buffer has no shape yet.

    """
    if lazy := uninitialized_parameters(pl_module):
        raise misconfiguration(
            trainer,
            f"SAM: expected initialized parameters, but got uninitialized lazy ones: {', '.join(lazy[:3])}. Run one"
            " batch through the model before `fit`.",
        )


def refuse_second_sam(trainer: Any, callbacks: list[Any]) -> None:
    """Raises for two SAM callbacks: each would repeat the step of the other.

    Raises:
        MisconfigurationException: If ``callbacks`` are different objects.

    """
    number = len(set(map(id, callbacks)))
    if number > 1:
        raise misconfiguration(
            trainer,
            f"SAM: expected one SAM, but got {number}, each of which would perturb the weights. Leave one in"
            " `callbacks`.",
        )


def refuse_optimizer(trainer: Any) -> None:
    """Raises for optimizers that run more than one backward pass by themselves, for no optimizer, and for ``rho``.

    Raises:
        MisconfigurationException: For each of these.

    """
    for optimizer in trainer.optimizers:
        names = [base.__name__ for base in type(optimizer).__mro__]
        if "_MockOptimizer" in names:
            raise misconfiguration(
                trainer, "SAM: expected `configure_optimizers` to return an optimizer, but got none."
            )
        if "LBFGS" in names:
            raise misconfiguration(
                trainer,
                "SAM: expected an optimizer that takes one gradient per step, but got LBFGS, which takes several. Use"
                " SGD, Adam or another first-order optimizer.",
            )
        if any(name.endswith("SAM") for name in names) or hasattr(optimizer, "first_step"):
            raise misconfiguration(
                trainer,
                f"SAM: expected the base optimizer, but got {type(optimizer).__name__}, which is SAM already and needs"
                " a closure of its own. Return its base optimizer (SGD, AdamW ...) from `configure_optimizers`.",
            )
        for index, group in enumerate(optimizer.param_groups):
            if "rho" in group and "rho" not in optimizer.defaults:  # Adadelta has another one
                raise misconfiguration(
                    trainer,
                    f"SAM: expected the radius of a parameter group as `sam_rho`, but got `rho` in group {index}. Write"
                    ' {"params": ..., "sam_rho": ...}.',
                )
