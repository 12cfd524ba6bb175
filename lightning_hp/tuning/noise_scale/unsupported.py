"""The trainings whose gradient noise scale cannot be measured. They are refused before the first step, with advice."""

from __future__ import annotations

from typing import Any

from lightning_hp.trainer import is_supported, misconfiguration, uninitialized_parameters


def refuse_for_noise_scale(trainer: Any, pl_module: Any) -> None:
    """Raises for manual optimization, sharded weights and other strategies.

    Raises:
        MisconfigurationException: For each of these.

    """
    if not pl_module.automatic_optimization:
        raise misconfiguration(
            trainer,
            "GradientNoiseScale: expected automatic optimization, but got `automatic_optimization = False`, where which"
            " batches form a step is not known. Return the loss from `training_step`, or use"
            " `lightning_hp.functional.NoiseScaleEstimator` in it.",
        )
    strategy = trainer.strategy
    is_sharded = any(base.__name__ == "ModelParallelStrategy" for base in type(strategy).__mro__)
    if is_sharded or not is_supported(strategy):
        raise misconfiguration(
            trainer,
            "GradientNoiseScale: expected a strategy with whole gradients in each process (single device, DDP), but got"
            f" {type(strategy).__name__}. Measure under one of these.",
        )


def refuse_optimizer_for_noise_scale(trainer: Any, pl_module: Any) -> None:
    """Raises for lazy layers, no optimizer, and one that runs several backward passes.

    Raises:
        MisconfigurationException: For each of these.

    """
    if lazy := uninitialized_parameters(pl_module):
        raise misconfiguration(
            trainer,
            f"GradientNoiseScale: expected initialized parameters, but got uninitialized lazy ones:"
            f" {', '.join(lazy[:3])}. Run one batch through the model before `fit`.",
        )
    names = [base.__name__ for base in type(trainer.optimizers[0]).__mro__] if trainer.optimizers else ["none"]
    if "_MockOptimizer" in names or names == ["none"]:
        raise misconfiguration(
            trainer, "GradientNoiseScale: expected `configure_optimizers` to return an optimizer, but got none."
        )
    if "LBFGS" in names:
        raise misconfiguration(
            trainer,
            "GradientNoiseScale: expected an optimizer that takes one gradient per step, but got LBFGS, which takes"
            " several. Use SGD, Adam or another first-order optimizer.",
        )
