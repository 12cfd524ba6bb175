"""The learning rate that goes with another batch size, and what to know before it is trusted.

Every batch size here is the *effective* one: samples for one optimizer step, micro-batch x accumulation x world size.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from lightning_hp.functional.checks import check_whole

ScalingRule = Literal["linear", "sqrt"]

#: A batch this many times as large is where the linear rule asks for a warm-up.
WARMUP_FROM = 8

#: The rules were measured from batch 16 to 256; farther apart they are a guess.
HELD_WITHIN = 16

#: A shorter training is starved of steps, and wants any learning rate it can get.
FEW_STEPS = 100


def scale_lr(base_lr: float, batch_size: int, base_batch_size: int, rule: ScalingRule | None = "linear") -> float:
    """The learning rate for ``batch_size``, from one that was right for ``base_batch_size``.

    Args:
        base_lr: The learning rate that was right, > 0.
        batch_size: The effective batch size to train with, >= 1.
        base_batch_size: The effective batch size that ``base_lr`` was right for, >= 1.
        rule: With k = ``batch_size / base_batch_size``: ``"linear"`` k times the rate, ``"sqrt"`` its square root times
            the rate, which keeps the variance of a step, ``None`` the rate as it is. Weight decay and the betas of Adam
            stay as they are.

    Returns:
        The scaled learning rate.

    Raises:
        ValueError: If an argument is out of its range.

    Costs nothing. Does not help beyond the critical batch size of a task, where the best rate no longer rises with the
    batch: a range test at the new size is better than any rule.

    Source: Goyal et al., *Accurate, Large Minibatch SGD*, 2017 (linear); Krizhevsky, *One weird trick for parallelizing
    convolutional neural networks*, 2014 (sqrt).

    Example:
        >>> scale_lr(0.1, batch_size=256, base_batch_size=32)
        0.8
        >>> scale_lr(1e-3, batch_size=128, base_batch_size=32, rule="sqrt")
        0.002

    """
    if not (base_lr > 0 and math.isfinite(base_lr)):
        raise ValueError(f"Expected `base_lr` to be a finite number > 0, but got {base_lr!r}.")
    check_rule(rule)
    k = times_the_batch(batch_size, base_batch_size)
    return base_lr * {None: 1.0, "linear": k, "sqrt": math.sqrt(k)}[rule]


def scaling_rule(optimizer: str) -> ScalingRule:
    """The rule that ``"auto"`` stands for: ``"sqrt"`` for the optimizers that divide by the size of the gradient.

    Those are Adam and its kin, which timm knows by ``ada`` or ``lamb`` in the name (so Adagrad and Adafactor too), and
    RMSprop. Everything else, SGD before all, is ``"linear"``.

    Args:
        optimizer: Name of the optimizer or of its class, in any case: ``type(optimizer).__name__`` will do.

    Returns:
        ``"linear"`` or ``"sqrt"``.

    Raises:
        ValueError: If the name is empty.

    Costs nothing. Does not help optimizers that find their own rate (D-Adaptation, Prodigy), which need no scaling, nor
    where the name says nothing of what is inside: a wrapper called ``Lookahead`` counts as linear.

    Source: timm, ``train.py``; Malladi et al., *On the SDEs and Scaling Rules for Adaptive Gradient Algorithms*, 2022
    (RMSprop and Adam).

    Example:
        >>> scaling_rule("SGD"), scaling_rule("AdamW"), scaling_rule("RMSprop")
        ('linear', 'sqrt', 'sqrt')

    """
    if not optimizer:
        raise ValueError(f"Expected `optimizer` to be the name of an optimizer such as 'AdamW', but got {optimizer!r}.")
    return "sqrt" if any(part in optimizer.lower() for part in ("ada", "lamb", "rmsprop")) else "linear"


def scaling_advice(
    batch_size: int,
    base_batch_size: int,
    rule: ScalingRule | None,
    *,
    num_training_steps: float = math.inf,
    optimizer: str | None = None,
) -> tuple[str, ...]:
    """What to know about a learning rate that was scaled, each in one sentence; nothing where the rules held.

    Args:
        batch_size: The effective batch size to train with, >= 1.
        base_batch_size: The effective batch size that the learning rate was right for, >= 1.
        rule: The rule that scaled the learning rate; ``None`` leaves only what is said about a short training.
        num_training_steps: Optimizer steps of the whole training, >= 1; ``math.inf`` if not known.
        optimizer: Name of the optimizer, to be told where its usual rule is another; ``None`` if not known.

    Returns:
        Sentences, most pressing first.

    Raises:
        ValueError: If an argument is out of its range.

    Costs nothing. Does not help to choose the batch size: the limits are those of small image and table tasks.

    Source: measurements of ours from batch 16 to 256, SGD and Adam; the warm-up is that of Goyal et al., 2017.

    Example:
        >>> for sentence in scaling_advice(1024, 32, "linear"):
        ...     print(sentence)
        The batch is 32 times the one the learning rate was right for; scaling was measured up to 16 times: ...
        Linear scaling by 8 or more wants a warm-up: ...

    """
    k = times_the_batch(batch_size, base_batch_size)
    check_rule(rule)
    advice = []
    if rule is not None and not 1 / HELD_WITHIN <= k <= HELD_WITHIN:
        times = f"{k:.3g} times" if k > 1 else f"1/{1 / k:.3g} of"
        known = f"scaling was measured up to {HELD_WITHIN} times: look for the rate at this size instead"
        advice.append(f"The batch is {times} the one the learning rate was right for; {known}.")
    if num_training_steps < FEW_STEPS:
        few = f"Only {num_training_steps:g} optimizer steps are left at this batch size"
        advice.append(
            f"{few}: with fewer than {FEW_STEPS} the steps are what is missing: train longer, or with a smaller batch."
        )
    if rule == "linear" and k >= WARMUP_FROM:
        ramp = "raise the learning rate from the base rate over the first epochs"
        advice.append(f"Linear scaling by {WARMUP_FROM} or more wants a warm-up: {ramp}.")
    if rule == "linear" and k != 1 and optimizer and scaling_rule(optimizer) == "sqrt":
        advice.append(f"{optimizer} is usually scaled by the square root of {k:.3g}, and this is {k:.3g} in full.")
    return tuple(advice)


def times_the_batch(batch_size: int, base_batch_size: int) -> float:
    """The k of the rules: how many times the batch has grown."""
    return check_whole("batch_size", batch_size, least=1) / check_whole("base_batch_size", base_batch_size, least=1)


def check_rule(rule: ScalingRule | None) -> None:
    """Raises ``ValueError`` for anything that is no rule."""
    if rule is not None and rule not in get_args(ScalingRule):
        known = "one of linear, sqrt or None (`scaling_rule` says which of them 'auto' is)"
        raise ValueError(f"Expected `rule` to be {known}, but got {rule!r}.")


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
