"""Find a batch size in an open Trainer: rehearse, choose, and put the answer into words."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning_hp.functional.learning_rate.scaling import scale_lr, scaling_advice, scaling_rule, warmup_steps
from lightning_hp.hyperparameters import BatchSize
from lightning_hp.memory import memory_meter, swift_collections
from lightning_hp.rehearsal import EvaluationRehearsal, Rehearsal, at_heaviest
from lightning_hp.reporting import progress_bar
from lightning_hp.results import BatchSizeResult
from lightning_hp.trainer import misconfiguration
from lightning_hp.tuning.batch_size.bounds import Asked, Bounds
from lightning_hp.tuning.batch_size.choice import choose_batch_size
from lightning_hp.tuning.batch_size.explanation import describe_bounds, notes_on
from lightning_hp.tuning.batch_size.trials import BatchTrials

if TYPE_CHECKING:
    import pytorch_lightning as pl


def find_batch_size(
    trainer: pl.Trainer, pl_module: pl.LightningModule, batch_size: BatchSize, asked: Asked, lr: float | None
) -> BatchSizeResult:
    """Finds the batch size of a training, and what it makes of the learning rate; applies nothing.

    Args:
        trainer: A Trainer at ``on_fit_start``, or in ``validate``, ``test`` or ``predict`` at ``on_*_start``.
        pl_module: Its module.
        batch_size: Where the size lives.
        asked: What the user asks.
        lr: The learning rate to scale, or ``None``.

    Raises:
        MisconfigurationException: If the run cannot be rehearsed, or not even the smallest batch fits.

    """
    started = time.monotonic()
    in_training = trainer.state.fn == "fit"
    kind: Any = Rehearsal if in_training else EvaluationRehearsal
    read = Bounds.read if in_training else Bounds.of_evaluation
    bar = progress_bar(trainer, "Finding the batch size", "sizes")
    with swift_collections(), bar as on_trial, at_heaviest(trainer), kind(trainer, pl_module) as rehearsal:
        bounds = read(asked, rehearsal, batch_size)
        # Made in here: the copy of the weights that a rehearsal keeps is no part of the training.
        meter = memory_meter(trainer.strategy.root_device, asked.memory_share)
        trials = BatchTrials(rehearsal, batch_size, meter, asked.steps_per_trial, bounds.accumulate, on_trial)
        choice = choose_batch_size(trials, bounds.wanted)
    if choice.batch_size is None:
        last = trials.trials[-1]
        raise misconfiguration(
            trainer,
            f"Expected a batch of {last.batch_size} samples to fit, but it does not: {last.reason}. Use a smaller model"
            " or input, a lower precision, or a device with more memory.",
        )
    accumulate = bounds.accumulation(choice)
    step = choice.batch_size * accumulate * trainer.world_size
    result = BatchSizeResult(
        batch_size=choice.batch_size,
        accumulate_grad_batches=accumulate,
        world_size=trainer.world_size,
        decided_by=bounds.highest[1] if choice.decided_by == "highest" else choice.decided_by,
        bounds=describe_bounds(bounds, choice, trials),
        trials=tuple(trials.trials),
        batch_size_before=batch_size.value,
        batch_size_used=batch_size.value,
        accumulate_before=bounds.accumulate,
        base_batch_size=bounds.base(),
        min_per_class=bounds.asked.min_per_class,
        class_probability=bounds.probability(step),
        notes=tuple(notes_on(bounds, choice, accumulate)),
        num_steps=trials.num_steps,
        num_loader_builds=trials.num_loader_builds,
        seconds=time.monotonic() - started,
    )
    return result if lr is None else _with_learning_rate(trainer, result, bounds, lr)


def _with_learning_rate(trainer: pl.Trainer, result: BatchSizeResult, bounds: Bounds, lr: float) -> BatchSizeResult:
    """The result with the learning rate scaled to it, the warm-up, and what to know about both."""
    asked = bounds.asked
    optimizer = type(trainer.optimizers[0]).__name__
    rule: Any = scaling_rule(optimizer) if asked.lr_scaling == "auto" else asked.lr_scaling
    step, base = result.effective_batch_size, result.base_batch_size
    size, accumulate = result.batch_size, result.accumulate_grad_batches
    num_steps = bounds.num_training_steps(trainer, size, accumulate)
    warmup = 0 if isinstance(asked.warmup, bool) else asked.warmup
    if asked.warmup is True:
        per_epoch = bounds.steps_per_epoch(trainer, size, accumulate)
        warmup = warmup_steps(step, base, rule, num_training_steps=num_steps, steps_per_epoch=per_epoch)
    advice = scaling_advice(step, base, rule, num_training_steps=num_steps, optimizer=optimizer)
    return replace(
        result,
        lr_before=lr,
        lr_scaled=scale_lr(lr, step, base, rule),
        lr_used=lr,
        lr_rule=rule,
        warmup_steps=warmup,
        notes=(*result.notes, *(note for note in advice if not (warmup and "wants a warm-up" in note))),
    )
