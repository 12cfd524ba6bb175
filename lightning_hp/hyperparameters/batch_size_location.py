"""Where the batch size of a training is kept: in an attribute that the loaders follow, or only in the loaders.

An attribute called ``batch_size`` is not always the one that the loaders are built with. So the hook builds them with
another value of the attribute, and their batch sizes are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightning_hp.hyperparameters.attributes import NamedAttribute, as_number, find_attribute
from lightning_hp.trainer import LoopLoaders, batch_size_of, flatten_loaders, is_resizable, misconfiguration

if TYPE_CHECKING:
    import pytorch_lightning as pl


@dataclass(frozen=True)
class BatchSizeLocation:
    """Where a batch size is kept.

    Args:
        attribute: The attribute that the loaders follow, or one that holds the same value, or ``None``.
        loaders_follow: Whether they follow it; otherwise a new batch size is written into copies of the loaders.
        value: The value of the attribute that they follow, or the batch size of the first loader.
        first_loader: The first loader, as the user built it.
        ratio: The batch size of the loaders divided by ``value``.

    """

    attribute: NamedAttribute | None
    loaders_follow: bool
    value: int
    first_loader: Any
    ratio: float = 1.0


def find_location(
    trainer: pl.Trainer, pl_module: pl.LightningModule, batch_arg_name: str, loop_loaders: LoopLoaders
) -> BatchSizeLocation:
    """Finds where the batch size of a loop is kept; arguments and errors as for :meth:`BatchSize.locate`."""
    candidates = _candidates(trainer, pl_module, batch_arg_name)
    has_hook = loop_loaders.hook_owner is not None
    with loop_loaders.building_without_effects(pl_module) as build:
        loaders = flatten_loaders(build())
        sizes = [batch_size_of(loader) for loader in loaders]
        homes = [one for one in candidates if has_hook and _loaders_follow(one, sizes, build)]
    if len(homes) > 1:
        found = " and ".join(f"{home} = {home.read()}" for home in homes)
        raise misconfiguration(
            trainer, f"Expected one batch size, got two that the loaders follow: {found}. Keep one of them."
        )
    if homes:
        value = int(as_number(homes[0].read()) or 1)
        known_size = next((size for size in sizes if size is not None), value)
        return BatchSizeLocation(homes[0], True, value, loaders[0], known_size / value)
    if batch_arg_name and has_hook:
        raise misconfiguration(
            trainer,
            f"Expected the loaders to follow {' or '.join(map(str, candidates))}, but another value there does not"
            " change their batches. Use it where the loaders are built, or leave `batch_arg_name` empty: the loaders"
            " are then resized.",
        )
    _refuse_fixed_loaders(trainer, loaders)
    value = sizes[0] or 0
    equal = tuple(place for one in candidates if as_number(one.read()) == value for place in one.places)
    return BatchSizeLocation(NamedAttribute("batch_size", equal) if equal else None, False, value, loaders[0])


def stated_batch_size(trainer: pl.Trainer) -> int | None:
    """Reads the batch size of the training without building a loader.

    Args:
        trainer: A Trainer inside ``fit``.

    Returns:
        The batch size of the first loader that was given to ``fit``, or the attribute or hyperparameter ``batch_size``
        of the module or datamodule that builds the loaders; ``None`` if neither is known.

    """
    loop_loaders = LoopLoaders(trainer)
    owner = loop_loaders.hook_owner
    if owner is None:
        sizes = map(batch_size_of, flatten_loaders(loop_loaders.build()))
        return next((size for size in sizes if size is not None), None)
    numbers = [as_number(place.read()) for place in find_attribute("batch_size", owner=owner).places]
    return next((int(number) for number in numbers if number is not None and is_batch_size(number)), None)


def _candidates(trainer: pl.Trainer, pl_module: pl.LightningModule, batch_arg_name: str) -> list[NamedAttribute]:
    """Lists the attributes that may be the home: one if all its places hold the same integer, else one per place."""
    attribute = find_attribute(
        batch_arg_name or "batch_size", model=pl_module, datamodule=getattr(trainer, "datamodule", None)
    ).writable("in the loaders")
    with_size = tuple(place for place in attribute.places if is_batch_size(as_number(place.read())))
    if batch_arg_name and not with_size:
        got = (
            f"{attribute} = {attribute.places[0].read()!r}" if attribute else "no such attribute or entry of `hparams`"
        )
        raise misconfiguration(
            trainer,
            f"Expected `batch_arg_name` {batch_arg_name!r} to name an int >= 1 of the model or the datamodule that can"
            f" be written, got {got}. Correct the name, or leave it empty.",
        )
    if not with_size:
        return []
    together = NamedAttribute(attribute.name, with_size)
    return [together] if together.agrees else [NamedAttribute(attribute.name, (place,)) for place in with_size]


def is_batch_size(number: float | None) -> bool:
    """Whether a number that was read from an attribute can be a batch size."""
    return number is not None and number >= 1 and number % 1 == 0


def _loaders_follow(attribute: NamedAttribute, sizes: list[int | None], build: Callable[[], Any]) -> bool:
    """Whether the loaders have other batch sizes if the attribute has another value.

    A loader that does not state its batch size is assumed to follow; the trials of a search count its batches.
    """
    value = attribute.read()
    attribute.write(2 * int(as_number(value) or 1))
    new_sizes = [batch_size_of(loader) for loader in flatten_loaders(build())]
    attribute.write(value)
    return new_sizes != sizes or None in sizes


def _refuse_fixed_loaders(trainer: pl.Trainer, loaders: list[Any]) -> None:
    """Raises ``MisconfigurationException`` for a loader whose batches cannot be resized."""
    for loader in loaders:
        if not is_resizable(loader):
            raise misconfiguration(
                trainer,
                f"Expected loaders whose batches can be resized, got {_describe(loader)}. Give the module or the"
                " datamodule a `batch_size` that the loader is built with, or use a DataLoader with a batch size.",
            )


def _describe(loader: Any) -> str:
    if getattr(loader, "batch_sampler", None) is not None:
        return f"a batch sampler without an int `batch_size` ({type(loader.batch_sampler).__name__})"
    return f"{type(loader).__name__}" + (" with batch_size=None" if hasattr(loader, "batch_size") else "")
