"""Finds a batch size in a running Trainer: rehearse, choose, explain."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning_hp.functional.learning_rate.scaling import scale_lr, scaling_advice, scaling_rule, warmup_steps
from lightning_hp.hyperparameters import BatchSize, LearningRate
from lightning_hp.memory import frozen_gc, memory_meter, released_at_end
from lightning_hp.rehearsal import BEFORE_FIT, EvaluationRehearsal, Rehearsal, at_heaviest_step
from lightning_hp.reporting import progress_bar
from lightning_hp.results import BatchBound, BatchSizeResult
from lightning_hp.trainer import misconfiguration
from lightning_hp.tuning.batch_size.bounds import Bounds
from lightning_hp.tuning.batch_size.choice import choose_batch_size
from lightning_hp.tuning.batch_size.explanation import describe_bounds, note_on_speed, notes_on
from lightning_hp.tuning.batch_size.float_limits import validation_limit
from lightning_hp.tuning.batch_size.noise_row import noise_scale_row
from lightning_hp.tuning.batch_size.rate_follows import refuse_rates_that_do_not_follow
from lightning_hp.tuning.batch_size.read_bounds import only_batches_of_one, read_bounds, read_evaluation_bounds
from lightning_hp.tuning.batch_size.settings import SearchSettings
from lightning_hp.tuning.batch_size.step_counts import step_counts
from lightning_hp.tuning.batch_size.trials import BatchTrials

if TYPE_CHECKING:
    import pytorch_lightning as pl


def find_batch_size(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    batch_size: BatchSize,
    settings: SearchSettings,
    learning_rate: LearningRate | None,
    caller: Any = None,
) -> BatchSizeResult:
    """Finds the batch size of a training and the learning rate scaled to it; sets nothing.

    Args:
        trainer: A Trainer at ``on_fit_start``, or in ``validate``, ``test`` or ``predict`` at ``on_*_start``.
        pl_module: Its module.
        batch_size: Where the batch size is kept.
        settings: The arguments of the callback.
        learning_rate: The learning rate to scale, or ``None``.
        caller: The callback in whose hook this is; ``None``: after those of all callbacks.

    Returns:
        The result: the size, the bounds, the trials and the scaled learning rate.

    Raises:
        MisconfigurationException: If the run cannot be rehearsed, or not even the smallest batch fits.

    """
    started = time.monotonic()
    in_training = trainer.state.fn == "fit"
    start: Any = partial(EvaluationRehearsal, caller=caller)
    read: Any = read_evaluation_bounds
    if in_training:
        # One pass of a trial after another: what changes in a later epoch, such as accumulation, is not of the size.
        moment = replace(BEFORE_FIT, caller=caller, end_epoch=trainer.current_epoch + 1)
        start = partial(Rehearsal, moment=moment, needs_loss=False)
        val_limit = validation_limit(trainer, pl_module, batch_size)
        read = partial(read_bounds, val_limit=val_limit, counts=step_counts(trainer))
    bar = progress_bar(trainer, "Finding the batch size", "sizes")
    with (
        frozen_gc(),
        released_at_end(trainer.strategy.root_device),
        bar as on_trial,
        at_heaviest_step(trainer),
        start(trainer, pl_module) as rehearsal,
    ):
        bounds = read(settings, rehearsal, batch_size)
        if learning_rate is not None:
            refuse_rates_that_do_not_follow(rehearsal, batch_size, learning_rate)
        # Created here: the copy of the weights that a rehearsal keeps does not count as memory of the training.
        meter = memory_meter(trainer.strategy.root_device, settings.memory_share)
        trials = BatchTrials(
            rehearsal,
            batch_size,
            meter,
            settings.steps_per_trial,
            bounds.accumulate,
            on_trial,
            bounds.batches_before_one,
        )
        choice = choose_batch_size(trials, bounds.goal)
        advice, num_noise_steps = list[BatchBound](), 0
        if in_training and settings.noise_scale and choice.batch_size is not None:
            accumulate = bounds.accumulation(choice)
            row, num_noise_steps = noise_scale_row(rehearsal, batch_size, choice.batch_size, accumulate)
            advice.append(row)
        trials.finish(choice.batch_size)
    if choice.batch_size is None:
        if trials.fitted and not bounds.one_sample_trains:
            raise misconfiguration(trainer, only_batches_of_one(bounds, trials.fitted[-1]))
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
        bounds=(*describe_bounds(bounds, choice, trials), *advice),
        trials=tuple(trials.trials),
        batch_size_before=batch_size.value,
        batch_size_used=batch_size.value,
        accumulate_before=bounds.accumulate,
        base_batch_size=bounds.base_batch_size(),
        min_per_class=bounds.settings.min_per_class,
        class_probability=bounds.probability(step),
        notes=(*notes_on(bounds, choice, accumulate), *note_on_speed(choice, trials.speeds)),
        num_steps=trials.num_steps + num_noise_steps,
        num_loader_builds=trials.num_loader_builds + len(advice),
        seconds=time.monotonic() - started,
    )
    return result if learning_rate is None else _with_learning_rate(trainer, result, bounds, learning_rate.value)


def _with_learning_rate(trainer: pl.Trainer, result: BatchSizeResult, bounds: Bounds, lr: float) -> BatchSizeResult:
    """Adds the learning rate scaled to the size, the warm-up, and notes on both."""
    settings = bounds.settings
    optimizer = type(trainer.optimizers[0]).__name__
    rule: Any = scaling_rule(optimizer) if settings.lr_scaling == "auto" else settings.lr_scaling
    step, base = result.effective_batch_size, result.base_batch_size
    size, accumulate = result.batch_size, result.accumulate_grad_batches
    num_steps = bounds.num_training_steps(size, accumulate)
    warmup = 0 if isinstance(settings.warmup, bool) else settings.warmup
    if settings.warmup is True:
        per_epoch = bounds.steps_per_epoch(size, accumulate)
        warmup = warmup_steps(step, base, rule, num_training_steps=num_steps, steps_per_epoch=per_epoch)
    advice = scaling_advice(
        step, base, rule, num_training_steps=num_steps, optimizer=optimizer, has_warmup=bool(warmup)
    )
    return replace(
        result,
        lr_before=lr,
        lr_scaled=scale_lr(lr, step, base, rule),
        lr_used=lr,
        lr_rule=rule,
        warmup_steps=warmup,
        notes=(*result.notes, *advice),
    )
