"""Changes the batch size of a training, wherever it is kept.

From a batch size to the loaders:

1. ``BatchSize.locate`` finds out whether the loaders follow an attribute ``batch_size``. If so, it is the *home*. An
   attribute of the same value that they do not follow is only kept up to date. See ``batch_size_location``.
2. ``BatchSize.loaders(size)`` writes the attribute and builds the loaders, for a rehearsal. With a home they have the
   new size. Without one they are as before, and copies of them are resized.
3. ``BatchSize.apply(size)`` does the same for the training: the loop gets such loaders, now and whenever it asks for
   them. See ``trainer/loop_loaders.py``.
4. ``BatchSize.record`` goes into the checkpoint, and ``apply_record`` repeats ``apply`` in a resumed run.
5. ``release_loaders`` and ``BatchSize.revert`` undo it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_hp.functional.checks import (
    check_bool,
    check_choice,
    check_fields,
    check_instance,
    check_int,
    wrong_value,
)
from lightning_hp.hyperparameters.attributes import NamedAttribute, Place, as_number, check_path
from lightning_hp.hyperparameters.batch_size_location import BatchSizeLocation, find_location, is_batch_size
from lightning_hp.trainer import LoopLoaders, resize_loaders

if TYPE_CHECKING:
    import pytorch_lightning as pl


class BatchSize:
    """The batch size of a training: where it is kept, and how it is changed.

    It is kept in an attribute or hyperparameter of the module or the datamodule from which the hook builds the training
    loaders: its *home*. If the loaders follow no attribute, or were given to ``fit``, they are resized: copies with
    the same dataset, sampler, collation, workers and generator.

    Every size is that of a micro-batch: the samples of one batch of one process.

    Attributes:
        value: The value of the home, or the batch size of the first training loader.
        first_loader: The first training loader, as the user built it.
        ratio: Its batch size divided by ``value``; a hook may use a multiple of the home.
        home: The attribute that the loaders follow, or ``None``.

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

    def __init__(self, loop_loaders: LoopLoaders, location: BatchSizeLocation) -> None:
        self.value = location.value
        self.first_loader = location.first_loader
        self.ratio = location.ratio
        self._loop_loaders = loop_loaders
        self._original = location.value
        self._attribute = location.attribute
        self._loaders_follow = location.loaders_follow

    @classmethod
    def locate(
        cls, trainer: pl.Trainer, pl_module: pl.LightningModule, batch_arg_name: str = "", loop: Any = None
    ) -> BatchSize:
        """Finds the batch size of a training, or of another loop; nothing is changed.

        Args:
            trainer: A Trainer inside ``fit``, at ``on_fit_start``.
            pl_module: Its module.
            batch_arg_name: The name of the attribute, or of the entry of ``hparams``, if it is not ``batch_size``; dots
                reach into nested ones.
            loop: The loop whose loaders are meant; ``None``: the fit loop.

        Returns:
            The batch size.

        Raises:
            MisconfigurationException: If the loaders do not follow ``batch_arg_name``, if they follow two attributes
                with different values, or if their batches cannot be resized.

        Note:
            Calls the hook that builds the loaders once, and once more for each attribute that may be the home.

        """
        loop_loaders = LoopLoaders(trainer, loop)
        return cls(loop_loaders, find_location(trainer, pl_module, batch_arg_name, loop_loaders))

    @property
    def home(self) -> NamedAttribute | None:
        """The attribute that the loaders follow, or ``None``."""
        return self._attribute if self._loaders_follow else None

    def loaders(self, batch_size: int) -> Any:
        """Builds loaders of another batch size, for a rehearsal.

        Args:
            batch_size: The batch size, >= 1.

        Returns:
            The loaders: one, or several in the collection that the hook returns.

        Raises:
            TypeError: If ``batch_size`` is not an integer.
            ValueError: If it is < 1.

        Note:
            The attribute keeps the value; the rehearsal restores it.

        """
        batch_size = check_int("batch_size", batch_size, 1)
        self._write(batch_size)
        loaders = self._loop_loaders.build()
        return loaders if self._loaders_follow else resize_loaders(loaders, batch_size, self._original)

    def apply(self, batch_size: int) -> None:
        """Trains with another batch size, as if the user had set it.

        Args:
            batch_size: The batch size, >= 1.

        Raises:
            TypeError: If ``batch_size`` is not an integer.
            ValueError: If it is < 1.

        Note:
            Loaders that exist already are built again. The random state stays.

        """
        self.value = check_int("batch_size", batch_size, 1)
        self._write(self.value)
        if not self._loaders_follow:
            self._loop_loaders.resize(self.value, self._original)
        self._loop_loaders.rebuild()

    def revert(self) -> None:
        """Writes the original value to the attribute; :func:`release_loaders` does the same for resized loaders."""
        self._write(self._original)

    @property
    def record(self) -> dict[str, Any]:
        """What :meth:`apply` did, in plain types, for :func:`apply_record`."""
        places = [] if self._attribute is None else [[at.owner_name, at.path] for at in self._attribute.places]
        return {
            "batch_size": self.value,
            "unit": self._original,
            "resize": not self._loaders_follow,
            "places": places,
        }

    def _write(self, batch_size: int) -> None:
        if self._attribute is not None:
            self._attribute.write(batch_size)


def check_record(name: str, record: Any, batch_arg_name: str) -> dict[str, Any]:
    """A record of a batch size, which may come from anyone's checkpoint.

    Args:
        name: The entry that holds it, for the message.
        record: What came.
        batch_arg_name: The name that the user gives now, or ``""`` for ``batch_size``.

    Returns:
        :attr:`BatchSize.record` in plain types.

    Raises:
        TypeError: If an entry is of the wrong type.
        ValueError: If an entry is missing or out of its range, or a batch size of this name is not looked for at one of
            the places.

    """
    fields = check_fields(name, record, ("batch_size", "unit", "resize", "places"))
    check_instance(f"{name}['places']", fields["places"], (list, tuple), "a list of owners and paths")
    places = []
    for index, place in enumerate(fields["places"]):
        at = f"{name}['places'][{index}]"
        check_instance(at, place, (list, tuple), "an owner and a path")
        if len(place) != 2:
            wrong_value(at, "an owner and a path", place)
        owner = check_choice(f"{at}[0]", place[0], ("model", "datamodule"))
        places.append([owner, check_path(f"{at}[1]", place[1], (batch_arg_name or "batch_size",))])
    return {
        "batch_size": check_int(f"{name}['batch_size']", fields["batch_size"], 1),
        "unit": check_int(f"{name}['unit']", fields["unit"], 1),
        "resize": check_bool(f"{name}['resize']", fields["resize"]),
        "places": places,
    }


def apply_record(trainer: pl.Trainer, pl_module: pl.LightningModule, record: dict[str, Any]) -> None:
    """Applies the batch size of an earlier run, before the loaders of a resumed run are built.

    Args:
        trainer: The Trainer.
        pl_module: The module.
        record: :attr:`BatchSize.record` of that run; places that hold no batch size now are skipped.

    Raises:
        ValueError: If a place cannot be written.

    """
    owners: dict[str, Any] = {"model": pl_module, "datamodule": getattr(trainer, "datamodule", None)}
    places = [Place(owner, owners[owner], path) for owner, path in record["places"] if owners.get(owner) is not None]
    with_size = tuple(place for place in places if place.exists() and is_batch_size(as_number(place.read())))
    NamedAttribute("batch size", with_size).write(record["batch_size"])
    if record["resize"]:
        LoopLoaders(trainer).resize(record["batch_size"], record["unit"])
