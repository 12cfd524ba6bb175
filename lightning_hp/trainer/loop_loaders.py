"""Where the loaders of a loop of the Trainer come from, and how the loop gets others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning_hp.snapshot import RandomState, Snapshot, Undo
from lightning_hp.trainer.loaders import loader_roots, request_loaders, resize_loaders

if TYPE_CHECKING:
    import pytorch_lightning as pl


class LoopLoaders:
    """The loaders of one loop.

    Lightning keeps a *source* per loop: the loaders that were given to ``fit``, or the module or datamodule with the
    hook that builds them. The loop asks the source once per run.

    Args:
        trainer: A Trainer that runs.
        loop: One of its loops; ``None``: the fit loop.

    """

    def __init__(self, trainer: pl.Trainer, loop: Any = None) -> None:
        self._trainer: Any = trainer
        self._loop = self._trainer.fit_loop if loop is None else loop

    @property
    def hook_owner(self) -> pl.LightningModule | pl.LightningDataModule | None:
        """The module or datamodule whose hook builds the loaders; ``None`` if they were given to the Trainer."""
        owner: pl.LightningModule | pl.LightningDataModule | None
        owner = self._source.instance if self._source.is_module() else None
        return owner

    @property
    def exist(self) -> bool:
        """Whether there are any: loaders that were given, or a hook that builds them."""
        return bool(self._source.is_defined())

    @property
    def running(self) -> list[Any]:
        """The loaders that the loop has built, as a flat list."""
        loop: Any = self._loop
        return list(loop._combined_loader.flattened)

    def build(self) -> Any:
        """Returns the loaders that the loop would get now; calls the hook, if there is one."""
        return request_loaders(self._trainer, self._source)

    @contextmanager
    def building_without_effects(self, pl_module: pl.LightningModule) -> Iterator[Callable[[], Any]]:
        """Gives :meth:`build`, and restores the module, the datamodule and the random state at the end."""
        random_state = RandomState(self._trainer.strategy.root_device)
        datamodule = getattr(self._trainer, "datamodule", None)
        state = Snapshot(pl_module, data=[] if datamodule is None else [datamodule])
        with Undo() as undo, warnings.catch_warnings():
            undo.callback(random_state.restore)
            undo.callback(state.restore)
            warnings.simplefilter("ignore")  # `fit` shows the same warnings
            yield self.build

    def resize(self, batch_size: int, unit: int) -> None:
        """Makes the source return resized copies of its loaders from now on.

        Args:
            batch_size: The batch size of a loader that has ``unit`` now; others keep their proportion to it.
            unit: A batch size, >= 1.

        """
        self.undo_resize()
        original = self._source.dataloader
        # Not a lambda: the Trainer can be pickled with it.
        vars(self._source)["dataloader"] = partial(_resized, original, batch_size, unit)

    def undo_resize(self) -> None:
        """Makes the source return the user's loaders again."""
        vars(self._source).pop("dataloader", None)

    def rebuild(self) -> None:
        """Builds the loaders of the loop again, if it has built them already; the random state is not changed."""
        loop = self._loop
        if loop._combined_loader is None:
            return
        random_state = RandomState(self._trainer.strategy.root_device)
        data = Snapshot(data=loader_roots(loop._combined_loader))
        end_workers(loop)
        loop._combined_loader = None
        loop.setup_data()
        if loop is not self._trainer.fit_loop:  # the other loops have run `reset` with the old loaders already
            loop.reset()
        data.restore()
        random_state.restore()

    @property
    def _source(self) -> Any:
        return self._loop._data_source


def end_workers(loop: Any) -> None:
    """Ends the workers of a loop's loaders, also where a loader has failed to start.

    The ``teardown`` of Lightning's fetcher reads the length first, which raises for a loader that has not started and
    hides why.

    Args:
        loop: A loop of the Trainer.

    """
    if loop._data_fetcher is not None:
        if loop._combined_loader is not None:
            loop._combined_loader.reset()
        loop._data_fetcher = None


def release_loaders(trainer: pl.Trainer) -> None:
    """Undoes :meth:`LoopLoaders.resize` in all loops: the next run gets the user's loaders."""
    loops: Any = trainer
    for loop in (loops.fit_loop, loops.validate_loop, loops.test_loop, loops.predict_loop):
        LoopLoaders(trainer, loop).undo_resize()


def _resized(build: Callable[[], Any], batch_size: int, unit: int) -> Any:
    return resize_loaders(build(), batch_size, unit)
