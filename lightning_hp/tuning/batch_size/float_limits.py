"""Lightning refuses a loop of which a float ``limit_*_batches`` leaves less than one batch."""

from __future__ import annotations

import itertools
from typing import Any

from lightning_hp.hyperparameters import BatchSize
from lightning_hp.trainer import LoopLoaders, batch_size_of, flatten_loaders, length_of, samples_of


def largest_with_a_batch(loader: Any, value: int, limit: float, samples: int | None = None) -> int | None:
    """The largest batch size of a training of which a limit leaves a batch of a loader.

    Args:
        loader: The loader, at the batch size ``value`` of the training.
        value: That batch size.
        limit: The share of its batches that is used.
        samples: Its samples, if they are known otherwise.

    Returns:
        The size; ``None`` if the limit leaves a batch at any size, or if the samples are not known.

    """
    if isinstance(limit, int) or not 0 < limit < 1:
        return None
    size = batch_size_of(loader)
    samples = (samples_of(loader) or None) if samples is None and size is not None else samples
    if samples is None:
        batches = length_of(loader)
        samples = None if batches is None else batches * value
    if samples is None:
        return None
    drops_last = bool(getattr(getattr(loader, "batch_sampler", None), "drop_last", False))
    batches = next(number for number in itertools.count(int(1 / limit)) if int(number * limit) >= 1)
    own = samples // batches if drops_last else (samples - 1) // max(1, batches - 1)
    return max(1, own * value // (size or value))


def validation_limit(trainer: Any, pl_module: Any, batch_size: BatchSize) -> int | None:
    """The largest batch size of a training of which ``limit_val_batches`` leaves a batch of each validation loader.

    Args:
        trainer: A Trainer at ``on_fit_start``.
        pl_module: Its module.
        batch_size: The batch size of the training.

    Returns:
        The size; ``None`` if it does not matter: the limit is no share, or the validation keeps its own batch size.

    Note:
        Calls the hook that builds the validation loaders twice, where there is such a limit.

    """
    limit, home = trainer.limit_val_batches, batch_size.home
    loop_loaders = LoopLoaders(trainer, trainer.fit_loop.epoch_loop.val_loop)
    if isinstance(limit, int) or not 0 < limit < 1 or home is None or not loop_loaders.exist:
        return None
    with loop_loaders.building_without_effects(pl_module) as build:
        loaders = flatten_loaders(build())
        home.write(2 * batch_size.value)
        others = flatten_loaders(build())
        home.write(batch_size.value)
    sizes = []
    for loader, other in zip(loaders, others, strict=True):
        size = batch_size_of(loader)
        if size is None or size != batch_size_of(other):
            samples = samples_of(loader)
            per_process = None if samples is None else -(-samples // trainer.world_size)
            sizes.append(largest_with_a_batch(loader, batch_size.value, limit, per_process))
    return min((size for size in sizes if size is not None), default=None)
