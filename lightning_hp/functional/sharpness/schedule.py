"""When sharpness-aware minimization acts and how strongly; which parameters are a normalisation's; when it fails."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_hp.functional.checks import check_radius, check_range, check_whole


def perturbation_radius(
    step: int,
    rho: float,
    *,
    every: int = 1,
    start: float = 0.0,
    warmup: float = 0.0,
    num_training_steps: float = math.inf,
) -> float:
    """The radius rho of one optimizer step; 0 where SAM is not due and the step is a plain one.

    Args:
        step: Optimizer steps done so far, >= 0.
        rho: The full radius, >= 0.
        every: SAM acts in the first of so many steps, >= 1.
        start: Share of the training before SAM acts at all, from 0 up to, but not, 1.
        warmup: Share of the training, after ``start``, over which the radius rises in a straight line to ``rho``,
            from 0 to 1.
        num_training_steps: Optimizer steps of the whole training, which ``start`` and ``warmup`` need.

    Returns:
        The radius.

    Raises:
        ValueError: If an argument is out of its range, or the length is needed and not known.

    Costs nothing. Where it does not help: with ``every`` at the same ``rho`` most of the gain is lost; ``rho`` has to
    grow with it.

    Source: the late start: Zhou et al., *Sharpness-Aware Minimization Efficiently Selects Flatter Minima Late in
    Training*, 2025; every k-th step: Composer's SAM, MosaicML, 2022; the warm-up is a measurement of ours.

    Example:
        >>> [perturbation_radius(step, 0.4, warmup=0.5, num_training_steps=8) for step in (0, 1, 3, 7)]
        [0.1, 0.2, 0.4, 0.4]
        >>> [perturbation_radius(step, 0.4, every=2) for step in range(4)]
        [0.4, 0.0, 0.4, 0.0]

    """
    check_whole("step", step, least=0)
    check_whole("every", every, least=1)
    check_radius("rho", rho)
    check_range("start", start, "a share >= 0 and < 1", lambda share: 0 <= share < 1)
    check_range("warmup", warmup, "a share from 0 to 1", lambda share: 0 <= share <= 1)
    if not (start or warmup):
        return 0.0 if step % every else rho
    if not 1 <= num_training_steps < math.inf:
        raise ValueError(
            "Expected the length of the training, which `start` and `warmup` are shares of, but got"
            f" num_training_steps={num_training_steps!r}."
        )
    since = step - math.ceil(start * num_training_steps)
    if since < 0 or step % every:
        return 0.0
    rising = math.ceil(warmup * num_training_steps)
    return rho * min(1.0, (since + 1) / rising) if rising else rho


def is_stuck(first_losses: Sequence[float], loss: float, num_outputs: int | None = None) -> bool:
    """Whether a training is where it began, or at the loss of guessing: what a radius that is too large looks like.

    Args:
        first_losses: Some losses from the start; none if the start was not seen.
        loss: The mean loss now, of many steps.
        num_outputs: Number of classes; guessing then costs ``log(num_outputs)``. ``None``: not known.

    Returns:
        Whether the loss has fallen by less than 3 % of the first one, or is within 3 % of that of guessing. A training
        that began below guessing and is there still is fine-tuned, not stuck.

    Costs nothing. Where it does not help: a training that has hardly begun, or whose learning rate is too small, looks
    the same.

    Source: measured by us.

    Example:
        >>> is_stuck([2.31, 2.33], 2.30), is_stuck([6.0], 2.30, num_outputs=10), is_stuck([2.31, 2.33], 1.5)
        (True, True, False)
        >>> is_stuck([0.05], 0.05, num_outputs=10)
        False

    """
    first = sum(first_losses) / len(first_losses) if first_losses else math.inf
    guessing = math.log(num_outputs) if num_outputs and num_outputs > 1 else math.inf
    if guessing == math.inf:
        return loss >= 0.97 * first
    return abs(loss - guessing) <= 0.03 * guessing or loss >= 0.97 * max(first, guessing)
