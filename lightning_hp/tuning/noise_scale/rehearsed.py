"""The gradient noise scale at the present weights: accumulated steps of a rehearsal, each of which is undone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor
from typing_extensions import override

from lightning_hp.functional.batch_size.noise_scale import NoiseScale
from lightning_hp.rehearsal import Rehearsal
from lightning_hp.trainer.base_classes import Callback
from lightning_hp.tuning.noise_scale.observations import Observations, num_distinct_steps
from lightning_hp.tuning.noise_scale.sample_counter import SampleCounter
from lightning_hp.tuning.noise_scale.step_meter import Norms, StepMeter, has_second_pass

if TYPE_CHECKING:
    import pytorch_lightning as pl


@dataclass(frozen=True)
class RehearsedNoise:
    """What a rehearsal has found.

    Attributes:
        scale: The estimate, with its interval or the reason why it is not known.
        num_measured: Steps that were measured, also if their gradient is not finite.
        num_steps: Optimizer steps that were run.
        note: A sentence on the samples of a batch; ``None`` if there is nothing to say.

    """

    scale: NoiseScale
    num_measured: int
    num_steps: int
    note: str | None


def rehearse_noise_scale(
    rehearsal: Rehearsal, num_training_steps: int, num_micro_batches: int, observations: Observations
) -> RehearsedNoise:
    """Accumulates batches to optimizer steps, and measures these at the present weights.

    A step ends where the data ends. One that then has a single batch is not measured, and another one is run for it.

    Args:
        rehearsal: An open rehearsal, at its start.
        num_training_steps: Steps to measure, >= 1. After each the rehearsal goes back to the present weights.
        num_micro_batches: Batches in a step, >= 2; fewer where the data ends.
        observations: Where the steps are added, to averages of their own.

    Returns:
        The estimate, and how many steps were run: at most twice as many as were to be measured.

    """
    trainer, loaders = rehearsal.trainer, rehearsal.loaders
    samples = SampleCounter(loaders)
    found, num_steps = list[Norms](), 0
    while len(found) < num_training_steps and num_steps < 2 * num_training_steps:
        with StepMeter(trainer, samples, has_second_pass(trainer)) as meter:
            trainer.accumulate_grad_batches = num_micro_batches
            trainer.callbacks = [_Listener(meter), *trainer.callbacks]
            rehearsal.step()
        if meter.norms is not None:
            found.append(meter.norms)
        num_steps += 1
        rehearsal.rewind()  # restores the callbacks and the accumulation too
    observations.start_again()
    pairs = [observations.add(norms, trainer.world_size) for norms in found]
    # At the same weights equal batches show the same. Numbers of a GPU may differ in their last digits.
    num_distinct = len({tuple(f"{value:.4g}" for value in pair) for pair in pairs if pair is not None})
    in_an_epoch = num_distinct_steps(loaders, trainer.num_training_batches, num_micro_batches)
    scale = observations.noise_scale(num_distinct if in_an_epoch is None else min(num_distinct, in_an_epoch))
    if not found:
        reason = "No step was measured: an epoch has one batch, which cannot be compared. Use smaller batches."
        scale = replace(scale, reason=reason)
    return RehearsedNoise(scale, len(found), num_steps, samples.note)


class _Listener(Callback):
    """Calls the meter at the hooks of a rehearsed step."""

    def __init__(self, meter: StepMeter) -> None:
        super().__init__()
        self._meter = meter

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._meter.on_train_batch_start(batch)

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._meter.on_before_backward()

    @override
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._meter.on_after_backward()

    @override
    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self._meter.on_before_optimizer_step()
