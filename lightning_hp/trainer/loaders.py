"""Data loaders: the ones that a loop would use, copies of them, copies with another batch size.

A rehearsal draws from copies, so that the samples are those of the training and the user's loaders are not touched.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from lightning_hp.trainer.namespace import lightning_module_of


def request_loaders(trainer: Any, source: Any) -> Any:
    """The loaders that a loop would get now from its data source; if that is a hook, the hook is called."""
    return lightning_module_of(trainer, "trainer.connectors.data_connector")._request_dataloader(source)


def flatten_loaders(loaders: Any) -> list[Any]:
    """The loaders of a nested structure as a list."""
    return list(tree_leaves(loaders.iterables if _is_combined(loaders) else loaders))


def copy_loaders(loaders: Any) -> Any:
    """The same structure of loaders, each ``DataLoader`` replaced by a shallow copy.

    A copy shares dataset, sampler and generator with its original, so it draws the same samples; a snapshot restores
    these. It does not share the iterator: persistent workers that already run belong to the training, and workers that
    a rehearsal starts end with it.

    Args:
        loaders: What ``fit`` takes: a loader, loaders nested in lists and dicts, or a ``CombinedLoader``.

    Returns:
        The same structure. Iterables that are not a ``DataLoader`` are not copied.

    """
    return _map_loaders(_copy, loaders)


def resize_loaders(loaders: Any, batch_size: int, unit: int) -> Any:
    """The same structure of loaders with another batch size: copies with the same dataset, sampler and workers.

    Args:
        loaders: What ``fit`` takes; each loader is one that :func:`is_resizable` accepts.
        batch_size: The new batch size of a loader whose batch size is ``unit``; other loaders are scaled in proportion.
        unit: A batch size, >= 1.

    """
    return _map_loaders(
        lambda loader: _resize(loader, max(1, round(batch_size * (batch_size_of(loader) or unit) / unit))), loaders
    )


def is_resizable(loader: Any) -> bool:
    """Whether :func:`resize_loaders` can give a loader another batch size."""
    return isinstance(loader, DataLoader) and isinstance(getattr(_batch_sampler(loader), "batch_size", None), int)


def batch_size_of(loader: Any) -> int | None:
    """The ``batch_size`` of a loader or of its batch sampler; ``None`` if neither has one."""
    sizes = (getattr(owner, "batch_size", None) for owner in (loader, _batch_sampler(loader)))
    return next((size for size in sizes if isinstance(size, int)), None)


def samples_of(loader: Any) -> int | None:
    """The samples that a loader draws in an epoch on this process; ``None`` if that is not known."""
    batch_sampler = _batch_sampler(loader)
    if isinstance(getattr(loader, "dataset", None), IterableDataset) and batch_sampler is not None:
        return length_of(loader.dataset)
    if isinstance(loader, DataLoader) and isinstance(batch_sampler, BatchSampler):
        return length_of(batch_sampler.sampler)
    batches, size = length_of(loader), batch_size_of(loader)
    return None if batches is None or size is None else batches * size


def forms_its_batches(loader: Any) -> bool:
    """Whether torch itself forms the batches of a loader, so that they are as large as its batch size says."""
    if not isinstance(loader, DataLoader):
        return False
    kind = type(_batch_sampler(loader))
    # Lightning wraps the batch sampler for `predict`.
    return kind is BatchSampler or any(base.__name__ == "_IndexBatchSamplerWrapper" for base in kind.__mro__)


def has_fixed_order(loader: Any) -> bool:
    """Whether each pass has the same batches, as far as the sampler shows it."""
    sampler = getattr(loader, "sampler", None)
    is_fixed = isinstance(sampler, SequentialSampler) or getattr(sampler, "shuffle", True) is False
    return is_fixed and forms_its_batches(loader)


def loader_roots(loaders: Any) -> list[Any]:
    """The objects of ``loaders`` whose state an iteration changes in this process, for a snapshot.

    The dataset of a loader with workers is not among them, since each worker has a copy of its own.
    """
    roots: list[Any] = []
    for loader in flatten_loaders(loaders):
        if isinstance(loader, DataLoader) and loader.num_workers > 0:
            roots += [loader.sampler, loader.batch_sampler, loader.generator]
        else:
            roots.append(loader)
    return roots


def _map_loaders(function: Callable[[Any], Any], loaders: Any) -> Any:
    if _is_combined(loaders):
        return type(loaders)(tree_map(function, loaders.iterables), loaders._mode)
    return tree_map(function, loaders)


def _is_combined(loaders: Any) -> bool:
    """Whether this is a ``CombinedLoader`` of either Lightning package."""
    return any(base.__name__ == "CombinedLoader" for base in type(loaders).__mro__)


def _copy(loader: Any) -> Any:
    if not isinstance(loader, DataLoader):
        return loader
    copied = copy.copy(loader)
    copied._iterator = None
    return copied


def _resize(loader: Any, batch_size: int) -> Any:
    # A copy instead of a new loader: the classes of loader and batch sampler may be the user's and have state.
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    batch_sampler = copy.copy(getattr(loader, name))
    batch_sampler.batch_size = batch_size
    _update_saved_argument(batch_sampler, "batch_size", batch_size)
    copied = _copy(loader)
    own = {} if loader.batch_size is None else {"batch_size": batch_size}
    vars(copied).update({**own, name: batch_sampler})  # DataLoader.__setattr__ forbids it after construction
    if name == "sampler":
        _update_saved_argument(copied, name, batch_sampler)
    if own:
        _update_saved_argument(copied, "batch_size", batch_size)
    return copied


def _update_saved_argument(owner: Any, name: str, value: Any) -> None:
    """Lightning rebuilds a loader that was made in a hook from the arguments that it saved there."""
    saved = vars(owner)
    positional = saved.get("__pl_saved_arg_names", ())
    if name in positional:
        position, arguments = positional.index(name), saved["__pl_saved_args"]
        saved["__pl_saved_args"] = (*arguments[:position], value, *arguments[position + 1 :])
    elif name in {*saved.get("__pl_saved_kwargs", ()), *saved.get("__pl_saved_default_kwargs", ())}:
        saved["__pl_saved_kwargs"] = {**saved["__pl_saved_kwargs"], name: value}


def _batch_sampler(loader: Any) -> Any:
    """What says which samples form a batch; with ``batch_size=None`` it may be given as the sampler of a loader."""
    batch_sampler, sampler = getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)
    return sampler if batch_sampler is None and isinstance(sampler, BatchSampler) else batch_sampler


def length_of(sized: Any) -> int | None:
    """The length of a loader, a dataset or a sampler; ``None`` if it has none."""
    try:
        return len(sized)
    except (TypeError, NotImplementedError):
        return None
