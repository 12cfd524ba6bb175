"""Can a batch of one sample be trained with? Batch normalisation cannot normalise one value per channel."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_hp.functional.norm_layers import has_running_statistics
from lightning_hp.hyperparameters import BatchSize
from lightning_hp.rehearsal import Rehearsal
from lightning_hp.trainer import independent_ranks, ranks_can_be_independent, reduce_over_ranks


def normalises_over_samples(module: nn.Module) -> bool:
    """Whether a layer normalises the samples of a batch together."""
    return any(isinstance(layer, _BatchNorm) or has_running_statistics(layer) for layer in module.modules())


def one_sample_trains(rehearsal: Rehearsal, batch_size: BatchSize) -> bool:
    """Whether a step with one sample runs without an error; it is tried, since it depends on the sizes of the features.

    Args:
        rehearsal: An open rehearsal; its next step needs a ``restart``.
        batch_size: Builds the loaders.

    Returns:
        Whether it runs on all processes; ``False`` where steps communicate, since none of them may fail there.

    """
    trainer = rehearsal.trainer
    if not ranks_can_be_independent(trainer, trainer.lightning_module):
        return False
    try:
        rehearsal.restart(lambda: batch_size.loaders(1), 1)
        with independent_ranks(trainer):
            rehearsal.step()
        runs = True
    # An error that has another reason comes again in the first trial, and is raised there.
    except (
        ValueError,
        RuntimeError,
        LookupError,
    ):
        runs = False
    return bool(reduce_over_ranks(trainer, [float(runs)], "min")[0])
