"""The gradient noise scale as a row beside the bounds of a batch size: advice that decides nothing."""

from __future__ import annotations

from typing import Any

from lightning_hp.hyperparameters import BatchSize
from lightning_hp.memory import attempt
from lightning_hp.results import BatchBound
from lightning_hp.trainer import misconfiguration_type
from lightning_hp.tuning.noise_scale import (
    Observations,
    RehearsedNoise,
    refuse_for_noise_scale,
    refuse_optimizer_for_noise_scale,
    rehearse_noise_scale,
)

#: Steps, and batches in each of them.
NUM_NOISE_STEPS, NUM_NOISE_BATCHES = 10, 8

_MEANING = (
    "samples in an optimizer step, at the first weights; it grows in a training, and is rather too high than too low as"
    " the size beyond which larger batches save few steps"
)


def noise_scale_row(rehearsal: Any, batch_size: BatchSize, size: int, accumulate: int) -> tuple[BatchBound, int]:
    """Measures the noise scale with batches of one size.

    Args:
        rehearsal: An open rehearsal, in which this size fits.
        batch_size: Builds the loaders.
        size: Samples in a batch of one process.
        accumulate: Batches of an optimizer step of one process in the training.

    Returns:
        The row, which has the reason where the noise scale cannot be measured, and the optimizer steps that were run.

    """
    trainer, observations = rehearsal.trainer, Observations()
    rehearsal.restart(lambda: batch_size.loaders(size))

    def measure() -> RehearsedNoise:
        refuse_for_noise_scale(trainer, trainer.lightning_module)
        refuse_optimizer_for_noise_scale(trainer, trainer.lightning_module)
        return rehearse_noise_scale(rehearsal, NUM_NOISE_STEPS, NUM_NOISE_BATCHES, observations)

    found: RehearsedNoise | None = None
    error: str | None = None
    try:
        if trainer.world_size > 1:  # none may run out of memory alone
            found = measure()
        else:
            found, error = attempt(measure, trainer.strategy.root_device)
    except misconfiguration_type(trainer) as refusal:  # a search without this row would go on
        error = str(refusal).removeprefix("GradientNoiseScale: ")
    if found is None:
        return _row(None, f"not known: {error}"), 0
    scale, notes = found.scale, [*observations.notes(), *filter(None, [found.note])]
    if scale.value is None:
        at_least = [f"at least {scale.low:.2g} samples in an optimizer step"] if scale.low > 0 else []
        return _row(None, "; ".join([f"not known: {scale.reason}", *at_least, *notes])), found.num_steps
    detail = f"{scale.value:.2g} ({scale.low:.2g} to {scale.high:.2g}) {_MEANING}"
    per_process = max(1, int(scale.value / (accumulate * trainer.world_size)))
    return _row(per_process, "; ".join([detail, *notes])), found.num_steps


def _row(size: int | None, detail: str) -> BatchBound:
    return BatchBound("noise scale", "advised up to", size, detail)
