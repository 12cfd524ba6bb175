"""When sharpness-aware minimization (SAM) acts and with which radius, and how a radius that is too large shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_hp.functional.checks import check_array, check_factor, check_int, check_number, wrong_value

# A loss within this share of the first loss, or of the loss at chance level, has not changed.
_TOLERANCE = 0.03


def perturbation_radius(
    step: int,
    rho: float,
    *,
    interval: int = 1,
    start: float = 0.0,
    warmup: float = 0.0,
    num_training_steps: float = math.inf,
) -> float:
    """The radius of one optimizer step; 0 in a step in which SAM does not act.

    Args:
        step: Number of optimizer steps done so far, >= 0.
        rho: The full radius, >= 0.
        interval: SAM acts in every ``interval``-th optimizer step, beginning with the first, >= 1.
        start: Share of the training before SAM acts at all, >= 0 and < 1.
        warmup: Share of the training, after ``start``, over which the radius rises linearly to ``rho``, from 0 to 1.
        num_training_steps: Number of optimizer steps of the whole training, >= 1. ``start`` and ``warmup`` need it.

    Returns:
        The radius.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If an argument is out of its range, or ``num_training_steps`` is needed and infinite.

    Note:
        With ``interval`` > 1 at the same ``rho`` most of SAM's gain is lost; increase ``rho`` with it.

    References:
        ``start``: Zhou et al., *Sharpness-Aware Minimization Efficiently Selects Flatter Minima Late in Training*,
        2025. ``interval``: Composer's SAM, MosaicML, 2022.

    Example:
        >>> [perturbation_radius(step, 0.4, warmup=0.5, num_training_steps=8) for step in (0, 1, 3, 7)]
        [0.1, 0.2, 0.4, 0.4]
        >>> [perturbation_radius(step, 0.4, interval=2) for step in range(4)]
        [0.4, 0.0, 0.4, 0.0]

    """
    step = check_int("step", step, 0)
    rho, interval, start, warmup = check_schedule(rho, interval, start, warmup)
    num_training_steps = check_number("num_training_steps", num_training_steps, minimum=1, finite=False)
    if not (start or warmup):
        return 0.0 if step % interval else rho
    if num_training_steps == math.inf:
        wrong_value("num_training_steps", "the length of the training, which `start` and `warmup` need", math.inf)
    since_start = step - math.ceil(start * num_training_steps)
    if since_start < 0 or step % interval:
        return 0.0
    warmup_steps = math.ceil(warmup * num_training_steps)
    if since_start + 1 >= warmup_steps:
        return rho
    return rho * ((since_start + 1) / warmup_steps)


def check_schedule(rho: Any, interval: Any, start: Any, warmup: Any) -> tuple[float, int, float, float]:
    """Checks the arguments that :func:`perturbation_radius` and the callback share, and returns them."""
    return (
        check_factor("rho", rho, minimum=0),
        check_int("interval", interval, 1),
        check_number("start", start, minimum=0, below=1),
        check_number("warmup", warmup, minimum=0, maximum=1),
    )


def is_stuck(first_losses: Sequence[float], loss: float, num_classes: int | None = None) -> bool:
    """Whether the loss of a training is still its first loss or the one at chance level: a sign of a radius too large.

    Args:
        first_losses: Some losses from the start of the training, shape ``(n,)``; empty if the start was not observed.
        loss: The mean loss of many recent steps.
        num_classes: Number of classes, >= 1. The loss at chance level is ``log(num_classes)``. ``None``: unknown.

    Returns:
        Whether the loss has fallen by less than 3 % of the first one, or is within 3 % of the loss at chance
        level. A training that starts and stays below the latter is fine-tuning, not stuck.

    Raises:
        TypeError: If an argument is no number, or ``first_losses`` are not numbers.
        ValueError: If a loss is NaN, ``first_losses`` has another shape, or ``num_classes`` is less than 1.

    Note:
        A training that has hardly begun, or whose learning rate is too small, looks the same.

    Example:
        >>> is_stuck([2.31, 2.33], 2.30), is_stuck([6.0], 2.30, num_classes=10), is_stuck([2.31, 2.33], 1.5)
        (True, True, False)
        >>> is_stuck([0.05], 0.05, num_classes=10)
        False

    """
    what = "losses of shape (n,), without NaN"
    losses = check_array("first_losses", first_losses, what)
    if losses.ndim != 1 or np.isnan(losses).any():
        wrong_value("first_losses", what, first_losses)
    loss = check_number("loss", loss, finite=False)
    if num_classes is not None:
        num_classes = check_int("num_classes", num_classes, 1, also="None")
    first = sum(losses.tolist()) / len(losses) if len(losses) else math.inf
    at_chance = math.log(num_classes) if num_classes and num_classes > 1 else math.inf
    if at_chance == math.inf:
        return loss >= (1 - _TOLERANCE) * first
    return abs(loss - at_chance) <= _TOLERANCE * at_chance or loss >= (1 - _TOLERANCE) * max(first, at_chance)
