"""The gradual warm-up that a scaled learning rate asks for: how long, and the rate of each step."""

from __future__ import annotations

import math

from lightning_hp.functional.checks import check_whole
from lightning_hp.functional.lr_scaling import WARMUP_FROM, ScalingRule, check_rule, times_the_batch


def warmup_steps(
    batch_size: int,
    base_batch_size: int,
    rule: ScalingRule | None,
    *,
    num_training_steps: float,
    steps_per_epoch: int | None = None,
) -> int:
    """How many optimizer steps of warm-up are advised: five epochs under linear scaling from k = 8 on, else none.

    Never more than a tenth of the training, since five epochs were five of ninety.

    Args:
        batch_size: The effective batch size to train with, >= 1.
        base_batch_size: The effective batch size that the learning rate was right for, >= 1.
        rule: The rule that scaled the learning rate.
        num_training_steps: Optimizer steps of the whole training, >= 1; ``math.inf`` if it has no end.
        steps_per_epoch: Optimizer steps of one epoch, >= 1; ``None`` if an epoch has no known length.

    Returns:
        Steps of warm-up, 0 for none. None is also the answer when neither length is known.

    Raises:
        ValueError: If an argument is out of its range.

    Costs nothing. Does not help with the square root rule, where a warm-up cost more than it gave in measurements.

    Source: Goyal et al., *Accurate, Large Minibatch SGD*, 2017; the tenth and the threshold are measurements of ours.

    Example:
        >>> warmup_steps(256, 32, "linear", num_training_steps=9000, steps_per_epoch=100)
        500
        >>> warmup_steps(256, 32, "sqrt", num_training_steps=9000, steps_per_epoch=100)
        0

    """
    if not num_training_steps >= 1:
        raise ValueError(f"Expected `num_training_steps` to be >= 1 or math.inf, but got {num_training_steps!r}.")
    if steps_per_epoch is not None:
        check_whole("steps_per_epoch", steps_per_epoch, least=1)
    check_rule(rule)
    if rule != "linear" or times_the_batch(batch_size, base_batch_size) < WARMUP_FROM:
        return 0
    longest = min(num_training_steps / 10, math.inf if steps_per_epoch is None else 5 * steps_per_epoch)
    return 0 if longest == math.inf else int(longest)


def warmup_lr(step: int, base_lr: float, scaled_lr: float, num_warmup_steps: int) -> float:
    """The learning rate of one step of a gradual warm-up: a straight line from ``base_lr`` to ``scaled_lr``.

    Args:
        step: Optimizer steps done so far, >= 0.
        base_lr: The rate of the first step, >= 0.
        scaled_lr: The rate from ``num_warmup_steps`` on, >= 0.
        num_warmup_steps: Length of the warm-up, >= 0.

    Returns:
        The learning rate.

    Raises:
        ValueError: If an argument is negative or not finite.

    Costs nothing. Does not help against a rate that is too high for good: it only spares the first steps.

    Source: Goyal et al., *Accurate, Large Minibatch SGD*, 2017.

    Example:
        >>> [warmup_lr(step, 0.1, 0.8, num_warmup_steps=7) for step in (0, 1, 7, 99)]
        [0.1, 0.2, 0.8, 0.8]

    """
    numbers = {"step": step, "base_lr": base_lr, "scaled_lr": scaled_lr, "num_warmup_steps": num_warmup_steps}
    for name, value in numbers.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"Expected `{name}` to be a finite number >= 0, but got {value!r}.")
    if step >= num_warmup_steps:
        return scaled_lr
    return base_lr + (scaled_lr - base_lr) * (step / num_warmup_steps)
