"""Where the batch size of a training lives: read it, get the loaders of another, write it so that it sticks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning_hp.hyperparameters.attributes import NamedAttribute, Place, as_number, find_attribute
from lightning_hp.snapshot import RandomStreams, Snapshot
from lightning_hp.trainer import (
    batch_size_of,
    flatten_loaders,
    is_resizable,
    loader_roots,
    misconfiguration,
    request_loaders,
    resize_loaders,
)

if TYPE_CHECKING:
    import pytorch_lightning as pl


class BatchSize:
    """Where the batch size of a training lives: in an attribute that the loaders follow, or in the loaders alone.

    Its *home* is the attribute or hyperparameter of the module or the datamodule from which the hook builds the
    training loaders. Whether they follow it is asked of the hook itself. Where they do not, or where
    loaders were given to ``fit``, the loaders are resized: copies with the same dataset, sampler, collation, workers
    and generator.

    Every size here is one process's share of one batch: the micro-batch.

    Attributes:
        value: What is at home, or the batch size of the first training loader.
        first_loader: The first training loader, as the user made it.
        ratio: Its batch size as a multiple of the value: a hook may build it with a share of what is at home.
        home: Where the module or datamodule keeps it, or ``None``.

    Example:
        >>> import torch, pytorch_lightning as pl
        >>> class Model(pl.LightningModule):
        ...     def __init__(self, batch_size=4):
        ...         super().__init__()
        ...         self.save_hyperparameters()
        ...         self.layer = torch.nn.Linear(2, 1)
        ...     def training_step(self, batch, batch_idx):
        ...         return self.layer(batch).mean()
        ...     def train_dataloader(self):
        ...         return torch.utils.data.DataLoader(torch.ones(64, 2), self.hparams.batch_size)
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.1)
        >>> class Twice(pl.Callback):
        ...     def on_fit_start(self, trainer, pl_module):
        ...         batch_size = BatchSize.locate(trainer, pl_module)
        ...         print(f"{batch_size.home} is {batch_size.value}")
        ...         batch_size.apply(2 * batch_size.value)
        >>> trainer = pl.Trainer(max_epochs=1, callbacks=[Twice()], logger=False, enable_checkpointing=False,
        ...                      enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
        >>> trainer.fit(Model())
        `model.hparams.batch_size` is 4
        >>> trainer.num_training_batches
        8

    """

    def __init__(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        loop: Any,
        value: int,
        first_loader: Any,
        home: NamedAttribute | None,
        companion: NamedAttribute | None,
        ratio: float = 1.0,
    ) -> None:
        self.value = value
        self.first_loader = first_loader
        self.ratio = ratio
        self.home = home
        self._trainer: Any = trainer
        self._module = pl_module
        self._loop = loop
        self._companion = companion
        self._unit = value

    @classmethod
    def locate(
        cls, trainer: pl.Trainer, pl_module: pl.LightningModule, batch_arg_name: str = "", loop: Any = None
    ) -> BatchSize:
        """Finds the batch size of a training, or of another loop; nothing is changed.

        The hook that builds the loaders runs once, and once more if there is an attribute that may be the home.

        Args:
            trainer: A Trainer inside ``fit``, at ``on_fit_start``.
            pl_module: Its module.
            batch_arg_name: Where the module or datamodule keeps it, if not in ``batch_size``: the name of an attribute
                or of an entry in ``hparams``; dots reach into nested ones.
            loop: The loop whose loaders are meant; ``None``: the fit loop.

        Raises:
            MisconfigurationException: If ``batch_arg_name`` names nothing that the loaders follow, if two places hold
                different values, or if a loader's batches cannot be resized.

        """
        loop = trainer.fit_loop if loop is None else loop
        candidates = _candidates(trainer, pl_module, batch_arg_name)
        with _untouched(trainer, pl_module, loop) as request:
            loaders = flatten_loaders(request())
            sizes = [batch_size_of(loader) for loader in loaders]
            homes = [one for one in candidates if loop._data_source.is_module() and _follow(one, sizes, request)]
        if len(homes) > 1:
            held = " and ".join(f"{home} = {home.read()}" for home in homes)
            raise misconfiguration(
                trainer, f"Expected one batch size, got two that the loaders follow: {held}. Keep one of them."
            )
        known = next((size for size in sizes if size is not None), None)
        if homes:
            value = int(as_number(homes[0].read()) or 1)
            return cls(trainer, pl_module, loop, value, loaders[0], homes[0], None, (known or value) / value)
        if batch_arg_name and loop._data_source.is_module():
            raise misconfiguration(
                trainer,
                f"Expected the loaders to follow {' or '.join(map(str, candidates))}, but with another value there"
                " their batches stay as they are. Use it where the loaders are built, or leave `batch_arg_name` empty:"
                " the loaders are then resized.",
            )
        for loader in loaders:
            if not is_resizable(loader):
                raise misconfiguration(
                    trainer,
                    f"Expected loaders whose batches can be resized, got {_describe(loader)}. Give the module or the"
                    " datamodule a `batch_size` that the loader is built with, or use a DataLoader with a batch size.",
                )
        value = sizes[0] or 0
        companions = [place for one in candidates if as_number(one.read()) == value for place in one.places]
        companion = NamedAttribute("batch_size", tuple(companions)) or None
        return cls(trainer, pl_module, loop, value, loaders[0], None, companion)

    @property
    def record(self) -> dict[str, Any]:
        """What was applied and where, in plain types, for :func:`apply_record`."""
        attribute = self.home or self._companion
        places = [] if attribute is None else [[place.owner_name, place.path] for place in attribute.places]
        return {"batch_size": self.value, "unit": self._unit, "resize": self.home is None, "places": places}

    def loaders(self, batch_size: int) -> Any:
        """The loaders that would be used with another batch size, for a rehearsal.

        With a home the value is written there and stays: a rehearsal puts it back.

        Args:
            batch_size: The size, >= 1.

        """
        self._write(batch_size)
        loaders = request_loaders(self._trainer, self._loop._data_source)
        return loaders if self.home is not None else resize_loaders(loaders, batch_size, self._unit)

    def apply(self, batch_size: int) -> None:
        """Makes ``batch_size`` the size that is trained with, as if it had been typed.

        Loaders that were built already are built anew. The random streams stay where they are.

        Args:
            batch_size: The size, >= 1.

        """
        self.value = int(batch_size)
        self._write(self.value)
        if self.home is None:
            _resize_source(self._loop._data_source, self.value, self._unit)
        loop, trainer = self._loop, self._trainer
        if loop._combined_loader is None:
            return
        streams = RandomStreams(trainer.strategy.root_device)
        data = Snapshot(data=loader_roots(loop._combined_loader))
        if loop._data_fetcher is not None:
            loop._data_fetcher.teardown()
        loop._combined_loader = None
        loop.setup_data()
        if loop is not trainer.fit_loop:  # it has been through `reset` already
            loop.reset()
        data.restore()
        streams.restore()

    def revert(self) -> None:
        """Puts back what the run came with."""
        self._write(self._unit)

    def _write(self, batch_size: int) -> None:
        attribute = self.home or self._companion
        if attribute is not None:
            attribute.write(batch_size)


def apply_record(trainer: pl.Trainer, pl_module: pl.LightningModule, record: dict[str, Any]) -> None:
    """Applies what a finished search has found before the loaders of a resumed run are built.

    Args:
        trainer: The Trainer.
        pl_module: The module.
        record: :attr:`BatchSize.record`; places that are not there are left out.

    """
    inside: Any = trainer
    owners: dict[str, Any] = {"model": pl_module, "datamodule": getattr(trainer, "datamodule", None)}
    places = (Place(owner, owners[owner], path) for owner, path in record["places"] if owners.get(owner) is not None)
    NamedAttribute("batch size", tuple(filter(Place.exists, places))).write(record["batch_size"])
    if record["resize"]:
        _resize_source(inside.fit_loop._data_source, record["batch_size"], record["unit"])


def stated_batch_size(trainer: pl.Trainer) -> int | None:
    """The batch size before any loader is built: of those given to ``fit``, or what the datamodule or module says.

    Args:
        trainer: A Trainer inside ``fit``.

    """
    inside: Any = trainer
    source = inside.fit_loop._data_source
    if not source.is_module():
        return next((size for loader in flatten_loaders(source.dataloader()) if (size := batch_size_of(loader))), None)
    numbers = [as_number(place.read()) for place in find_attribute("batch_size", owner=source.instance).places]
    return next((int(number) for number in numbers if number is not None and _is_size(number)), None)


def release_loaders(trainer: pl.Trainer) -> None:
    """The next run gets the user's loaders as they are, until a batch size is applied to it."""
    inside: Any = trainer
    for loop in (inside.fit_loop, inside.validate_loop, inside.test_loop, inside.predict_loop):
        vars(loop._data_source).pop("dataloader", None)


def _resize_source(source: Any, batch_size: int, unit: int) -> None:
    """Lets a data source of Lightning give resized loaders: the user's are not touched, and a hook stays a hook."""
    vars(source).pop("dataloader", None)
    original = source.dataloader

    def dataloader() -> Any:
        return resize_loaders(original(), batch_size, unit)

    vars(source)["dataloader"] = dataloader


def _candidates(trainer: pl.Trainer, pl_module: pl.LightningModule, batch_arg_name: str) -> list[NamedAttribute]:
    """The attributes that may be the home, whole numbers >= 1; places with different values are different numbers."""
    attribute = find_attribute(
        batch_arg_name or "batch_size", model=pl_module, datamodule=getattr(trainer, "datamodule", None)
    )
    numbers = [place for place in attribute.places if _is_size(as_number(place.read()))]
    if batch_arg_name and not numbers:
        got = (
            f"{attribute} = {attribute.places[0].read()!r}" if attribute else "no such attribute or entry of `hparams`"
        )
        raise misconfiguration(
            trainer,
            f"Expected `batch_arg_name` {batch_arg_name!r} to name an int >= 1 of the model or the datamodule that can"
            f" be written, got {got}. Correct the name, or leave it empty.",
        )
    kept = NamedAttribute(attribute.name, tuple(numbers))
    if not numbers or kept.agrees:
        return [kept] if numbers else []
    return [NamedAttribute(attribute.name, (place,)) for place in numbers]


def _is_size(number: float | None) -> bool:
    return number is not None and number >= 1 and not number % 1


def _follow(attribute: NamedAttribute, sizes: list[int | None], request: Callable[[], Any]) -> bool:
    """Whether the loaders follow an attribute: other batches with another value there.

    A loader that does not tell its batch size is taken at the user's word here; its batches are counted later.
    """
    held = attribute.read()
    attribute.write(2 * int(held))
    changed = [batch_size_of(loader) for loader in flatten_loaders(request())]
    attribute.write(held)
    return changed != sizes or None in sizes


def _describe(loader: Any) -> str:
    if getattr(loader, "batch_sampler", None) is not None:
        return f"a batch sampler without an int `batch_size` ({type(loader.batch_sampler).__name__})"
    return f"{type(loader).__name__}" + (" with batch_size=None" if hasattr(loader, "batch_size") else "")


@contextmanager
def _untouched(trainer: Any, pl_module: pl.LightningModule, loop: Any) -> Iterator[Callable[[], Any]]:
    """Lets the loaders be requested on the side; module, datamodule and random streams are put back in the end."""
    streams = RandomStreams(trainer.strategy.root_device)
    datamodule = getattr(trainer, "datamodule", None)
    state = Snapshot(pl_module, data=[] if datamodule is None else [datamodule])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `fit` says it
            yield partial(request_loaders, trainer, loop._data_source)
    finally:
        state.restore()
        streams.restore()
