"""Where a learning-rate schedule begins to decay, as the share of the training from which SAM acts."""

from __future__ import annotations

import math
from typing import Any

from lightning_hp.hyperparameters import first_decay
from lightning_hp.trainer import misconfiguration


def share_before_decay(trainer: Any, pl_module: Any, num_training_steps: float, is_resumed: bool) -> float:
    """The share of the training that is over when the schedule begins to decay.

    Args:
        trainer: A Trainer at the start of its training.
        pl_module: Its module.
        num_training_steps: Optimizer steps of the whole training, finite.
        is_resumed: Whether the training continues its schedule from a checkpoint; a second ``fit`` begins a new one.

    Returns:
        A share whose step, rounded up, is the first step with a lower rate, >= 0 and < 1.

    Raises:
        MisconfigurationException: If a schedule waits for a metric, if none decays, if one cannot be simulated, and if
            one is stepped in epochs of an unknown number of steps.

    """
    configs = trainer.strategy.lr_scheduler_configs
    if waiting := [type(config.scheduler).__name__ for config in configs if config.reduce_on_plateau]:
        raise misconfiguration(
            trainer,
            f"SAM: expected a schedule whose decay is known in advance for start='decay', but got {waiting[0]}, which"
            " waits for a metric. Give `start` as a share of the training.",
        )
    num_batches = trainer.num_training_batches
    if math.isinf(num_batches) and any(config.interval == "epoch" for config in configs):
        raise misconfiguration(
            trainer,
            "SAM: expected epochs whose number of steps is known for start='decay' with a schedule that is stepped once"
            ' per epoch, but got a loader without a length. Set `limit_train_batches`, or `"interval": "step"`.',
        )
    done: int = trainer.global_step
    scheduled = done if is_resumed else 0
    steps_left = int(num_training_steps) - done
    per_epoch = steps_left if math.isinf(num_batches) else math.ceil(num_batches / trainer.accumulate_grad_batches)
    try:
        decay = first_decay(trainer, pl_module, steps_left, per_epoch, steps_done=scheduled) if configs else None
    except Exception as error:
        raise misconfiguration(
            trainer,
            "SAM: expected a schedule that can be stepped without a training for start='decay', but its simulation"
            f" raised {type(error).__name__}: {error}. Give `start` as a share of the training.",
        ) from error
    if decay is None:
        got = "no schedule" if not configs else "one that does not"
        raise misconfiguration(
            trainer,
            f"SAM: expected a learning-rate schedule that decays during the training for start='decay', but got {got}."
            " Give `start` as a share of the training.",
        )
    return (done - scheduled + decay - 0.5) / num_training_steps  # halfway, so that rounding cannot reach another step
