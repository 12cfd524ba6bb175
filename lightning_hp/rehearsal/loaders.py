"""Loaders for a rehearsal: copies of the user's that draw the same samples and leave the originals alone."""

from __future__ import annotations

import copy
from typing import Any

from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader


def copy_loaders(loaders: Any) -> Any:
    """The same (nest of) loaders, each ``DataLoader`` a shallow copy with workers and iterator of its own.

    A copy shares dataset, sampler and generator with its original, so it draws what the original would draw; these
    are remembered and put back by a snapshot. What it does not share is the iterator: persistent workers that
    already run belong to the training, and workers that a rehearsal starts end with it.

    Args:
        loaders: What ``fit`` takes: a loader, any nest of them in lists and dicts, or a ``CombinedLoader``.

    Returns:
        The same structure. Iterables that are not a ``DataLoader`` are returned as they are.

    """
    if is_combined_loader(loaders):
        return type(loaders)(tree_map(_copy_one, loaders.iterables), loaders._mode)
    return tree_map(_copy_one, loaders)


def loader_roots(loaders: Any) -> list[Any]:
    """What of ``loaders`` lives in this process and is written while they are iterated.

    The dataset of a loader with workers is not part of it: the workers have their own.
    """
    leaves = tree_leaves(loaders.iterables if is_combined_loader(loaders) else loaders)
    roots: list[Any] = []
    for loader in leaves:
        if isinstance(loader, DataLoader) and loader.num_workers > 0:
            roots += [loader.sampler, loader.batch_sampler, loader.generator]
        else:
            roots.append(loader)
    return roots


def is_combined_loader(loaders: Any) -> bool:
    """Whether this is a Lightning ``CombinedLoader``, of whichever of the two Lightning packages."""
    return any(base.__name__ == "CombinedLoader" for base in type(loaders).__mro__)


def _copy_one(loader: Any) -> Any:
    if not isinstance(loader, DataLoader):
        return loader
    copied = copy.copy(loader)
    copied._iterator = None
    return copied
