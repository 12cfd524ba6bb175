"""Reads the bounds of a batch size from an open rehearsal: the only place here that asks the Trainer for settings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from lightning_hp.data import ClassCounts, UnknownClasses, class_counts
from lightning_hp.hyperparameters import BatchSize
from lightning_hp.rehearsal import EvaluationRehearsal, Rehearsal, is_accumulation_scheduler
from lightning_hp.trainer import batch_size_of, length_of, misconfiguration, samples_of
from lightning_hp.tuning.batch_size.bounds import Bounds, LoaderEpoch
from lightning_hp.tuning.batch_size.choice import possible_sizes
from lightning_hp.tuning.batch_size.float_limits import largest_with_a_batch
from lightning_hp.tuning.batch_size.one_sample import normalises_over_samples, one_sample_trains
from lightning_hp.tuning.batch_size.settings import SearchSettings
from lightning_hp.tuning.batch_size.step_counts import StepCount, fixed_schedules

# Seconds for a pass over all samples to count their labels.
_MAX_SECONDS = 60.0


def read_bounds(
    settings: SearchSettings,
    rehearsal: Rehearsal,
    batch_size: BatchSize,
    val_limit: int | None = None,
    counts: tuple[StepCount, ...] = (),
) -> Bounds:
    """The bounds of a training.

    Args:
        settings: The arguments of the callback.
        rehearsal: An open rehearsal.
        batch_size: Where the batch size is kept.
        val_limit: The largest size of which ``limit_val_batches`` leaves a batch; ``None``: any.
        counts: What counts batches or steps over the whole training, read outside of the rehearsal.

    Returns:
        The bounds that are known before a step.

    Raises:
        MisconfigurationException: If ``effective_batch_size`` cannot be reached, if each size that may be taken ends an
            epoch with a batch that cannot be trained with, if a schedule has the length of the training at the present
            batch size and does not follow it, or ``max_val`` is less than the
            smallest batch that the loader can form.

    """
    trainer, loaders = rehearsal.trainer, rehearsal.loaders
    module = trainer.lightning_module
    limit = trainer.limit_train_batches
    samples = min(_samples(loaders, batch_size.value), default=None)
    if samples is not None and isinstance(limit, float):
        samples = int(samples * limit)
    batch_samplers = [getattr(loader, "batch_sampler", None) for loader in loaders]
    bounds = Bounds(
        settings=settings,
        value=batch_size.value,
        accumulate=trainer.accumulate_grad_batches,
        world_size=trainer.world_size,
        samples=samples,
        max_epochs=_end(trainer.max_epochs),
        max_steps=_end(trainer.max_steps),
        max_batches=limit if isinstance(limit, int) else None,
        classes=_read_classes(settings, batch_size.first_loader, trainer.world_size),
        smallest=max(getattr(sampler, "least_batch_size", 1) for sampler in batch_samplers),
        drop_last=any(bool(getattr(sampler, "drop_last", False)) for sampler in batch_samplers),
        val_interval=_val_interval(trainer),
        may_accumulate=module.automatic_optimization and not any(map(is_accumulation_scheduler, trainer.callbacks)),
        epochs=tuple(_epoch(loader, batch_size.value, limit) for loader in loaders),
        float_limit=min(
            _float_limits(loaders, batch_size.value, limit, "limit_train_batches", val_limit), default=None
        ),
        counts=counts,
        has_batch_norm=normalises_over_samples(module),
    )
    _refuse_what_cannot_be_reached(trainer, bounds)
    present = batch_size.value * bounds.accumulate * bounds.world_size
    if module.automatic_optimization and settings.effective_batch_size != present:
        bounds = replace(bounds, schedules=fixed_schedules(rehearsal, batch_size))
    if bounds.has_batch_norm:
        bounds = replace(bounds, one_sample_trains=one_sample_trains(rehearsal, batch_size))
        if not possible_sizes(bounds.goal, bounds.highest[0]):
            raise misconfiguration(trainer, only_batches_of_one(bounds, bounds.highest[0]))
    return bounds


def only_batches_of_one(bounds: Bounds, highest: int) -> str:
    """Says that each size that could be taken gives the training a batch of one sample, and what helps."""
    goal = bounds.goal
    rule = f"from {goal.lowest} to {highest}"
    if goal.divisor_of is not None:
        rule += f" that divides {goal.divisor_of}"
    elif goal.round_to != 1:
        rule += f" with round_to={goal.round_to!r}"
    if highest == 1:
        return (
            f"Expected batches of two samples or more, since the model cannot be trained with one (batch"
            f" normalisation), but {bounds.highest[1]} allows 1. Raise it."
        )
    return (
        f"Expected a batch size {rule} that leaves no last batch of one sample, which the model cannot be trained with"
        f" (batch normalisation), but with {bounds.samples} samples each of them does. Use `drop_last=True` in the"
        " loader, or other limits."
    )


def read_evaluation_bounds(settings: SearchSettings, rehearsal: EvaluationRehearsal, batch_size: BatchSize) -> Bounds:
    """The bounds of ``validate``, ``test`` or ``predict``: memory, speed, data and user."""
    settings = replace(settings, min_per_class=0, min_steps_per_epoch=1, effective_batch_size=None)
    trainer, value = rehearsal.trainer, batch_size.value
    name = {"validate": "limit_val_batches", "predict": "limit_predict_batches"}.get(
        trainer.state.fn, "limit_test_batches"
    )
    limits = _float_limits(rehearsal.loaders, value, getattr(trainer, name), name)
    return Bounds(
        settings=settings,
        value=value,
        accumulate=1,
        world_size=trainer.world_size,
        # The loaders run one after another, so the largest one decides.
        samples=max(_samples(rehearsal.loaders, value), default=None),
        float_limit=min(limits, default=None),
        max_epochs=None,
        classes=UnknownClasses("nothing is trained"),
        trains=False,
    )


def _end(number: int | None) -> int | None:
    """A limit of Lightning, where -1 and ``None`` mean that there is none."""
    return None if number in (None, -1) else number


def _samples(loaders: list[Any], value: int) -> list[int]:
    """Samples of an epoch of each loader, where known, on the scale of a loader with batches of ``value``.

    A loader that does not say how large its batches are has batches of ``value``.
    """
    samples = []
    for loader in loaders:
        size = batch_size_of(loader)
        number = samples_of(loader) if size is not None else length_of(loader)
        if number is not None:
            samples.append(number * value if size is None else number * value // size)
    return samples


def _float_limits(
    loaders: list[Any], value: int, limit: float, name: str, val_limit: int | None = None
) -> list[tuple[int, str]]:
    """The largest sizes of which a limit leaves a batch, with the limit."""
    sizes = [largest_with_a_batch(loader, value, limit) for loader in loaders]
    limits = [(size, f"{name}={limit:g}") for size in sizes if size is not None]
    return limits if val_limit is None else [*limits, (val_limit, "limit_val_batches")]


def _epoch(loader: Any, value: int, limit: float) -> LoaderEpoch:
    """An epoch of a loader. With a float limit below 1 the last batch is not drawn."""
    drops_last = bool(getattr(getattr(loader, "batch_sampler", None), "drop_last", False))
    has_last = not drops_last and (isinstance(limit, int) or limit == 1.0)
    return LoaderEpoch(samples_of(loader), (batch_size_of(loader) or value) / value, has_last)


def _val_interval(trainer: Any) -> int | None:
    """Lightning refuses an epoch of fewer batches than ``val_check_interval``."""
    by_epoch = trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches > 0
    return trainer.val_check_interval if by_epoch and isinstance(trainer.val_check_interval, int) else None


def _read_classes(settings: SearchSettings, loader: Any, world_size: int) -> ClassCounts | UnknownClasses:
    if not settings.min_per_class:
        return UnknownClasses("`min_per_class` is 0")
    max_seconds = _MAX_SECONDS if world_size == 1 else math.inf  # all processes have to come to the same result
    return class_counts(loader, settings.num_classes, allow_pass=settings.read_labels, max_seconds=max_seconds)


def _refuse_what_cannot_be_reached(trainer: Any, bounds: Bounds) -> None:
    """Raises ``MisconfigurationException`` for settings that no batch size satisfies."""
    total, world_size = bounds.settings.effective_batch_size, bounds.world_size
    if bounds.smallest > bounds.highest[0]:
        raise misconfiguration(
            trainer,
            f"Expected batches of {bounds.smallest} samples or more, which the batch sampler needs, but"
            f" {bounds.highest[1]} allows {bounds.highest[0]}. Raise `max_val`, or ask the sampler for less.",
        )
    if total is None:
        return
    if total % world_size:
        raise misconfiguration(
            trainer, f"Expected `effective_batch_size` to be a multiple of the {world_size} processes, but got {total}."
        )
    if not bounds.may_accumulate:
        raise misconfiguration(
            trainer,
            "Expected to set the accumulation for `effective_batch_size`, but got a GradientAccumulationScheduler that"
            " sets it too, or a module with manual optimization. Use one of them.",
        )
    if bounds.samples is not None and total > bounds.samples * world_size:
        raise misconfiguration(
            trainer,
            f"Expected `effective_batch_size` to be at most the {bounds.samples * world_size} samples of an epoch, but"
            f" got {total}: an optimizer step ends with the epoch.",
        )
    lowest, highest, share = bounds.goal.lowest, bounds.highest[0], total // world_size
    if not any(share % size == 0 for size in range(lowest, highest + 1)):
        raise misconfiguration(
            trainer,
            f"Expected {share} samples of a process to be a multiple of a batch from {lowest} to {highest}, but none"
            " divides it. Choose an `effective_batch_size` with more divisors, such as a power of two.",
        )
