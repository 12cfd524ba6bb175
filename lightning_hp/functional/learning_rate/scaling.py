"""The learning rate for another batch size, its warm-up, and the limits of the rules that convert it.

Every batch size here is the *effective* one, the samples of one optimizer step: micro-batch x accumulation x world
size.

Pseudo-code, with k = batch_size / base_batch_size:

    linear:  lr = k * base_lr
    sqrt:    lr = sqrt(k) * base_lr
    warm-up: lr = base_lr + (lr - base_lr) * min(step / num_warmup_steps, 1)
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from lightning_hp.functional.checks import check_bool, check_choice, check_int, check_number, check_str, wrong_value

ScalingRule = Literal["linear", "sqrt"]

#: From this factor between the batch sizes on, linear scaling needs a warm-up.
WARMUP_FROM = 8

#: The rules were measured up to this factor, at batch sizes from 16 to 256.
MAX_MEASURED_FACTOR = 16

#: A training with fewer optimizer steps has too few of them: at equal epochs a larger batch then lost more than half a
#: point of accuracy, whatever the learning rate.
MIN_TRAINING_STEPS = 250

# Parts of the names of optimizers that divide by the size of the gradient; the first two are those of timm.
_ADAPTIVE = ("ada", "lamb", "rmsprop")


def scale_lr(base_lr: float, batch_size: int, base_batch_size: int, rule: ScalingRule | None = "linear") -> float:
    """The learning rate for ``batch_size``, from the best one for ``base_batch_size``.

    Args:
        base_lr: The learning rate for ``base_batch_size``, finite and > 0.
        batch_size: The effective batch size to train with, >= 1.
        base_batch_size: The effective batch size that ``base_lr`` was chosen for, >= 1.
        rule: With k = ``batch_size / base_batch_size``: ``"linear"`` multiplies the rate by k, ``"sqrt"`` by the square
            root of k, which keeps the variance of a step, ``None`` keeps the rate. Weight decay and the betas of Adam
            are not scaled.

    Returns:
        The scaled learning rate.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.

    Note:
        Above the critical batch size of a task the best rate no longer rises with the batch. A range test at the new
        batch size is more reliable than any rule.

    References:
        P. Goyal et al., *Accurate, Large Minibatch SGD*, 2017 (linear).
        A. Krizhevsky, *One weird trick for parallelizing convolutional neural networks*, 2014 (sqrt).

    Example:
        >>> scale_lr(0.1, batch_size=256, base_batch_size=32)
        0.8
        >>> scale_lr(1e-3, batch_size=128, base_batch_size=32, rule="sqrt")
        0.002

    """
    lr = check_number("base_lr", base_lr, above=0)
    rule = _check_rule(rule)
    k = _factor(batch_size, base_batch_size)
    return check_number("base_lr x the factor", lr * {None: 1.0, "linear": k, "sqrt": math.sqrt(k)}[rule])


def scaling_rule(optimizer: str) -> ScalingRule:
    """The rule that ``"auto"`` stands for: ``"sqrt"`` for optimizers that divide by the size of the gradient.

    These are Adam and its variants, which timm recognises by ``ada`` or ``lamb`` in the name (so Adagrad and Adafactor
    too), and RMSprop. All others are ``"linear"``, above all SGD.

    Args:
        optimizer: Name of the optimizer or of its class, in upper or lower case, such as ``type(optimizer).__name__``.

    Returns:
        ``"linear"`` or ``"sqrt"``.

    Raises:
        TypeError: If the name is no ``str``.
        ValueError: If the name is empty.

    Note:
        Optimizers that find their own rate (D-Adaptation, Prodigy) need no scaling. A wrapper whose name does not
        contain that of its optimizer, such as ``Lookahead``, counts as linear.

    References:
        R. Wightman, timm, ``train.py``.
        S. Malladi et al., *On the SDEs and Scaling Rules for Adaptive Gradient Algorithms*, 2022 (RMSprop and Adam).

    Example:
        >>> scaling_rule("SGD"), scaling_rule("AdamW"), scaling_rule("RMSprop")
        ('linear', 'sqrt', 'sqrt')

    """
    name = check_str("optimizer", optimizer, what="the name of an optimizer such as 'AdamW'")
    if not name:
        wrong_value("optimizer", "the name of an optimizer such as 'AdamW'", name)
    return "sqrt" if any(part in name.lower() for part in _ADAPTIVE) else "linear"


def scaling_advice(
    batch_size: int,
    base_batch_size: int,
    rule: ScalingRule | None,
    *,
    num_training_steps: float = math.inf,
    optimizer: str | None = None,
    has_warmup: bool = False,
) -> tuple[str, ...]:
    """Warnings about a scaled learning rate, one sentence each; none where the rules were measured to hold.

    Args:
        batch_size: The effective batch size to train with, >= 1.
        base_batch_size: The effective batch size that the learning rate was chosen for, >= 1.
        rule: The rule that scaled the learning rate. With ``None`` there is only the warning about a short training.
        num_training_steps: Optimizer steps of the whole training, >= 1; ``math.inf`` if not known.
        optimizer: Name of the optimizer, for a warning if its usual rule is another; ``None`` if not known.
        has_warmup: Whether the training has a warm-up; there is no advice then to add one.

    Returns:
        Sentences, the most important first.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.

    Note:
        The limits were measured on small image and table tasks, at batch sizes from 16 to 256, with SGD and Adam. They
        do not tell which batch size to choose.

    References:
        P. Goyal et al., *Accurate, Large Minibatch SGD*, 2017 (warm-up).

    Example:
        >>> for sentence in scaling_advice(1024, 32, "linear"):
        ...     print(sentence)
        The batch is 32 times the one the learning rate was chosen for; scaling was measured up to 16 times. ...
        Linear scaling by 8 or more needs a warm-up: ...

    """
    k = _factor(batch_size, base_batch_size)
    rule = _check_rule(rule)
    steps = _check_training_steps(num_training_steps)
    usual_rule = None if optimizer is None else scaling_rule(optimizer)
    has_warmup = check_bool("has_warmup", has_warmup)
    advice = []
    if rule is not None and not 1 / MAX_MEASURED_FACTOR <= k <= MAX_MEASURED_FACTOR:
        times = f"{k:.3g} times" if k > 1 else f"1/{1 / k:.3g} of"
        known = f"scaling was measured up to {MAX_MEASURED_FACTOR} times. Run a range test (LRFinder) at this size"
        advice.append(f"The batch is {times} the one the learning rate was chosen for; {known}.")
    if steps < MIN_TRAINING_STEPS:
        advice.append(
            f"The training has only {steps:g} optimizer steps at this batch size. With fewer than {MIN_TRAINING_STEPS},"
            " no learning rate makes up for the missing steps: train longer, or with a smaller batch."
        )
    if rule == "linear" and k >= WARMUP_FROM and not has_warmup:
        ramp = "raise the learning rate from the base rate over the first epochs"
        advice.append(f"Linear scaling by {WARMUP_FROM} or more needs a warm-up: {ramp}.")
    if rule == "linear" and k != 1 and usual_rule == "sqrt":
        advice.append(f"With {optimizer} the learning rate is usually scaled by the square root of {k:.3g}.")
    return tuple(advice)


def warmup_steps(
    batch_size: int,
    base_batch_size: int,
    rule: ScalingRule | None,
    *,
    num_training_steps: float,
    steps_per_epoch: int | None = None,
) -> int:
    """The recommended optimizer steps of warm-up: five epochs for linear scaling by 8 or more, otherwise none.

    Args:
        batch_size: The effective batch size to train with, >= 1.
        base_batch_size: The effective batch size that the learning rate was chosen for, >= 1.
        rule: The rule that scaled the learning rate.
        num_training_steps: Optimizer steps of the whole training, >= 1; ``math.inf`` if it has no end.
        steps_per_epoch: Optimizer steps of one epoch, >= 1; ``None`` if its length is not known.

    Returns:
        Steps of warm-up, >= 0. It is 0 if neither length is known.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.

    Note:
        The warm-up is at most a tenth of the training, since Goyal et al. used five of ninety epochs. With the square
        root rule a warm-up lost more accuracy than it gained. The tenth and the factor 8 were measured on small image
        and table tasks.

    References:
        P. Goyal et al., *Accurate, Large Minibatch SGD*, 2017.

    Example:
        >>> warmup_steps(256, 32, "linear", num_training_steps=9000, steps_per_epoch=100)
        500
        >>> warmup_steps(256, 32, "sqrt", num_training_steps=9000, steps_per_epoch=100)
        0

    """
    k = _factor(batch_size, base_batch_size)
    rule = _check_rule(rule)
    longest = _check_training_steps(num_training_steps) / 10
    if steps_per_epoch is not None:
        longest = min(longest, 5 * check_int("steps_per_epoch", steps_per_epoch, 1, also="None"))
    return int(longest) if rule == "linear" and k >= WARMUP_FROM and math.isfinite(longest) else 0


def warmup_lr(step: int, base_lr: float, scaled_lr: float, num_warmup_steps: int) -> float:
    """The learning rate of one step of a warm-up: linear from ``base_lr`` to ``scaled_lr``.

    Args:
        step: Optimizer steps done so far, >= 0.
        base_lr: The rate of the first step, finite and >= 0.
        scaled_lr: The rate from step ``num_warmup_steps`` on, finite and >= 0.
        num_warmup_steps: Length of the warm-up, >= 0.

    Returns:
        The learning rate.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.

    Note:
        A warm-up protects the first steps only. It does not help if ``scaled_lr`` is too high.

    References:
        P. Goyal et al., *Accurate, Large Minibatch SGD*, 2017.

    Example:
        >>> [warmup_lr(step, 0.1, 0.8, num_warmup_steps=7) for step in (0, 1, 7, 99)]
        [0.1, 0.2, 0.8, 0.8]

    """
    done = check_int("step", step, 0)
    first = check_number("base_lr", base_lr, minimum=0)
    last = check_number("scaled_lr", scaled_lr, minimum=0)
    length = check_int("num_warmup_steps", num_warmup_steps, 0)
    return last if done >= length else first + (last - first) * (done / length)


def _factor(batch_size: int, base_batch_size: int) -> float:
    """K of the rules: the batch size in multiples of the base."""
    return check_int("batch_size", batch_size, 1) / check_int("base_batch_size", base_batch_size, 1)


def _check_rule(rule: ScalingRule | None) -> ScalingRule | None:
    if rule is None:
        return None
    choices: tuple[ScalingRule, ...] = get_args(ScalingRule)
    return check_choice("rule", rule, choices, also="None (`scaling_rule` tells which of them 'auto' is)")


def _check_training_steps(steps: float) -> float:
    return check_number("num_training_steps", steps, minimum=1, finite=False)
