"""Does an optimizer step use the learning rate that is set? A module that writes its own would undo a scaled rate."""

from __future__ import annotations

import math
from typing import Any

from lightning_hp.hyperparameters import BatchSize, LearningRate
from lightning_hp.rehearsal import Rehearsal
from lightning_hp.trainer import misconfiguration, ranks_can_be_independent

# A module may write a rate in these hooks; `training_step` is one of them with manual optimization.
_HOOKS = ("optimizer_step", "on_before_optimizer_step", "on_train_batch_start", "on_before_zero_grad")

# The rate of the first step may be 0, at the start of a warm-up.
_STEPS = 2


def refuse_rates_that_do_not_follow(rehearsal: Rehearsal, batch_size: BatchSize, learning_rate: LearningRate) -> None:
    """Runs steps at the present learning rate and at twice as much, and compares the rates that the optimizer used.

    Args:
        rehearsal: An open rehearsal; its next step needs a ``restart``.
        batch_size: Builds the loaders.
        learning_rate: The learning rate of the training.

    Raises:
        MisconfigurationException: If a rate that follows the learning rate is not doubled.

    Note:
        Runs four optimizer steps, and only if the module overrides a hook of the step or optimizes manually.

    """
    trainer = rehearsal.trainer
    module = trainer.lightning_module
    writes = not module.automatic_optimization or any(_overrides(module, hook) for hook in _HOOKS)
    if not writes or not ranks_can_be_independent(trainer, module):
        return
    once = _used(rehearsal, batch_size, learning_rate, learning_rate.value)
    twice = _used(rehearsal, batch_size, learning_rate, 2 * learning_rate.value)
    for (set_once, used_once), (set_twice, used_twice) in zip(once, twice, strict=False):
        follows = math.isclose(used_twice * set_once, used_once * set_twice, rel_tol=1e-3)
        if used_once > 0 and not follows:
            where = "the rate in the optimizer" if learning_rate.home is None else str(learning_rate.home)
            raise misconfiguration(
                trainer,
                f"Expected the step to follow the learning rate, but with {where} at {2 * learning_rate.value:g}"
                f" it uses {used_twice:.4g} in place of {set_twice:.4g}: the step writes a rate of its own, which would"
                " undo a scaled one. Compute it from that rate, move it into a scheduler, or use `lr_scaling=None`.",
            )


def _used(
    rehearsal: Rehearsal, batch_size: BatchSize, learning_rate: LearningRate, lr: float
) -> list[tuple[float, float]]:
    """The rate of each group that was set, and the one that the last optimizer step used."""

    def build() -> Any:
        if learning_rate.home is not None:
            learning_rate.home.attribute.write(lr)  # the rehearsal restores it
        return batch_size.loaders(batch_size.value)

    rehearsal.restart(build)
    learning_rate.set_for_step(lr)
    optimizers = rehearsal.trainer.strategy.optimizers
    rates_set = [rate for optimizer in optimizers for rate in _rates(optimizer)]
    used: dict[int, list[float]] = {}
    hooks = [
        optimizer.register_step_pre_hook(lambda one, *_: used.update({id(one): _rates(one)}))
        for optimizer in optimizers
    ]
    try:
        for _ in range(_STEPS):
            rehearsal.step()
    finally:
        for hook in hooks:
            hook.remove()
    return list(zip(rates_set, [rate for one in optimizers for rate in used.get(id(one), _rates(one))], strict=True))


def _rates(optimizer: Any) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def _overrides(module: Any, hook: str) -> bool:
    """Whether a hook is not that of ``LightningModule`` or of this package."""
    method = getattr(type(module), hook, None)
    return method is not None and not method.__module__.startswith(("pytorch_lightning.", "lightning."))
