"""Loaders for a rehearsal: copies of the user's that draw the same samples and leave the originals alone."""

from __future__ import annotations

import copy
from typing import Any

from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from lightning_hp.trainer.namespace import lightning_module_of


def request_loaders(trainer: Any, source: Any) -> Any:
    """The loaders that a loop of ``fit`` would get from its data source now: the user's hook runs, if it is one."""
    return lightning_module_of(trainer, "trainer.connectors.data_connector")._request_dataloader(source)


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
    roots: list[Any] = []
    for loader in flatten_loaders(loaders):
        if isinstance(loader, DataLoader) and loader.num_workers > 0:
            roots += [loader.sampler, loader.batch_sampler, loader.generator]
        else:
            roots.append(loader)
    return roots


def flatten_loaders(loaders: Any) -> list[Any]:
    """The single loaders of a nest."""
    return list(tree_leaves(loaders.iterables if is_combined_loader(loaders) else loaders))


def is_combined_loader(loaders: Any) -> bool:
    """Whether this is a Lightning ``CombinedLoader``, of whichever of the two Lightning packages."""
    return any(base.__name__ == "CombinedLoader" for base in type(loaders).__mro__)


def _copy_one(loader: Any) -> Any:
    if not isinstance(loader, DataLoader):
        return loader
    copied = copy.copy(loader)
    copied._iterator = None
    return copied


def batch_size_of(loader: Any) -> int | None:
    """How many samples a loader puts into a batch, if it says so: itself, or the batch sampler that it was given."""
    sizes = (getattr(owner, "batch_size", None) for owner in (loader, getattr(loader, "batch_sampler", None)))
    return next((size for size in sizes if isinstance(size, int)), None)


def samples_of(loader: Any) -> int | None:
    """How many samples a loader draws in an epoch on this process, if that is known."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    if isinstance(getattr(loader, "dataset", None), IterableDataset):
        return _length(loader.dataset)
    if isinstance(loader, DataLoader) and isinstance(batch_sampler, BatchSampler):
        return _length(batch_sampler.sampler)
    batches, size = _length(loader), batch_size_of(loader)
    return None if batches is None or size is None else batches * size


def forms_its_batches(loader: Any) -> bool:
    """Whether torch alone forms the batches of a loader, so that they are as large as its batch size says."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    kind = type(loader.batch_sampler)
    # Lightning wraps the batch sampler to predict.
    return kind is BatchSampler or any(base.__name__ == "_IndexBatchSamplerWrapper" for base in kind.__mro__)


def resize_loaders(loaders: Any, batch_size: int, unit: int) -> Any:
    """The same (nest of) loaders with other batches: copies with the same dataset, sampler, collation and workers.

    Args:
        loaders: What ``fit`` takes; each of them a ``DataLoader`` that forms batches.
        batch_size: The new batch size of a loader that has ``unit`` now; others keep their proportion to it.
        unit: A batch size, >= 1.

    """

    def resized(loader: Any) -> Any:
        return _resize_one(loader, max(1, round(batch_size * (batch_size_of(loader) or unit) / unit)))

    if is_combined_loader(loaders):
        return type(loaders)(tree_map(resized, loaders.iterables), loaders._mode)
    return tree_map(resized, loaders)


def is_resizable(loader: Any) -> bool:
    """Whether :func:`resize_loaders` can give a loader other batches."""
    return isinstance(loader, DataLoader) and isinstance(getattr(loader.batch_sampler, "batch_size", None), int)


def _resize_one(loader: Any, batch_size: int) -> Any:
    # A copy rather than a new one: the classes of loader and batch sampler may be the user's, with state of their own.
    batch_sampler = copy.copy(loader.batch_sampler)
    batch_sampler.batch_size = batch_size
    _remember_argument(batch_sampler, "batch_size", batch_size)
    copied = _copy_one(loader)
    own = {} if loader.batch_size is None else {"batch_size": batch_size}
    vars(copied).update(own, batch_sampler=batch_sampler)  # the class forbids it once the loader is made
    if own:
        _remember_argument(copied, "batch_size", batch_size)
    return copied


def _remember_argument(thing: Any, name: str, value: Any) -> None:
    """Lightning builds a loader that was made in a hook anew from the arguments that it saw there."""
    known = vars(thing)
    positional = known.get("__pl_saved_arg_names", ())
    if name in positional:
        position, arguments = positional.index(name), known["__pl_saved_args"]
        known["__pl_saved_args"] = (*arguments[:position], value, *arguments[position + 1 :])
    elif name in {*known.get("__pl_saved_kwargs", ()), *known.get("__pl_saved_default_kwargs", ())}:
        known["__pl_saved_kwargs"] = {**known["__pl_saved_kwargs"], name: value}


def _length(thing: Any) -> int | None:
    try:
        return len(thing)
    except (TypeError, NotImplementedError):
        return None
