"""The gradient noise scale as a row beside the bounds of a batch size: advice that decides nothing."""

from __future__ import annotations

from typing import Any

from lightning_hp.functional.batch_size.noise_scale import NoiseScaleEstimator
from lightning_hp.hyperparameters import BatchSize
from lightning_hp.memory import attempt
from lightning_hp.results import BatchBound
from lightning_hp.tuning.noise_scale import Norms, rehearse_noise_scale

#: Steps, and batches in each of them.
NUM_NOISE_STEPS, NUM_NOISE_BATCHES = 10, 8

_MEANING = (
    "samples in an optimizer step, at the first weights; it grows in a training, and is rather too high than too low as"
    " the size beyond which larger batches save few steps"
)


def noise_scale_row(rehearsal: Any, batch_size: BatchSize, size: int, accumulate: int) -> tuple[BatchBound]:
    """Measures the noise scale with batches of one size.

    Args:
        rehearsal: An open rehearsal, in which this size fits.
        batch_size: Builds the loaders.
        size: Samples in a batch of one process.
        accumulate: Batches of an optimizer step of one process in the training.

    """
    trainer = rehearsal.trainer
    rehearsal.restart(lambda: batch_size.loaders(size))

    def measure() -> list[Norms]:
        return rehearse_noise_scale(rehearsal, NUM_NOISE_STEPS, NUM_NOISE_BATCHES)

    error = None
    if trainer.world_size > 1:  # none may fail alone
        steps: list[Norms] | None = measure()
    else:
        steps, error = attempt(measure, trainer.strategy.root_device)
    estimator = NoiseScaleEstimator()
    for norms in steps or ():
        if (found := norms.read()) is not None:
            estimator.update(*found[:2])
    scale = estimator.noise_scale()
    if scale.value is None:
        at_least = f"; at least {scale.low:.2g} samples in an optimizer step" if scale.low > 0 else ""
        return (BatchBound("noise scale", "advised up to", None, f"not known: {error or scale.reason}{at_least}"),)
    detail = f"{scale.value:.2g} ({scale.low:.2g} to {scale.high:.2g}) {_MEANING}"
    per_process = max(1, int(scale.value / (accumulate * trainer.world_size)))
    return (BatchBound("noise scale", "advised up to", per_process, detail),)
