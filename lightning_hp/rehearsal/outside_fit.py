"""Reach the place where a rehearsal can start without a training: set a Trainer up, act, and undo the set-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytorch_lightning as pl

from lightning_hp.rehearsal.participants import gradient_callbacks
from lightning_hp.rehearsal.stand_in_loop import fresh_loop
from lightning_hp.snapshot import RandomStreams, Snapshot, put_back_dict
from lightning_hp.trainer import SilentLogger, lightning_module_of, misconfiguration

_Result = TypeVar("_Result")


def rehearse_alone(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    act: Callable[[pl.Trainer, pl.LightningModule], _Result],
    train_dataloaders: Any = None,
    datamodule: Any = None,
) -> _Result:
    """Calls ``act(trainer, pl_module)`` where ``fit`` would call ``on_fit_start``, and leaves all as it was.

    ``prepare_data``, ``setup`` and ``configure_optimizers`` run, as they do in ``fit``. Afterwards a ``fit`` with the
    same Trainer and module is the ``fit`` that it would have been.

    Args:
        trainer: A Trainer that is not running.
        pl_module: The module to rehearse.
        act: What to do there.
        train_dataloaders: As for ``fit``.
        datamodule: As for ``fit``.

    Returns:
        What ``act`` returned.

    Raises:
        MisconfigurationException: If the Trainer is running, or starts its processes itself (``ddp_spawn``, a
            notebook), so that an answer found in them could not come back.

    """
    inside: Any = trainer
    _refuse_what_cannot_come_back(inside)
    streams = RandomStreams(inside.strategy.root_device)
    surroundings = [(owner, dict(vars(owner))) for owner in _owners_of_settings(inside)]
    state = Snapshot(pl_module, data=[] if datamodule is None else [datamodule])
    errand = _Errand(act)
    try:
        inside.fit_loop = fresh_loop(inside)
        inside.callbacks = [*gradient_callbacks(inside), errand]
        inside._loggers = [SilentLogger(logger) for logger in inside.loggers]
        inside.fit(pl_module, train_dataloaders=train_dataloaders, datamodule=datamodule)
    finally:
        for owner, attributes in surroundings:
            put_back_dict(vars(owner), attributes)
        state.restore()
        streams.restore()
    result: _Result = errand.results[0]
    return result


class _Errand(pl.Callback):
    """Acts at ``on_fit_start`` and ends the run there."""

    def __init__(self, act: Callable[[pl.Trainer, pl.LightningModule], Any]) -> None:
        self._act = act
        self.results: list[Any] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.results.append(self._act(trainer, pl_module))
        # Lightning's own way out of `fit` before the training: it tears down, reports success and returns.
        raise lightning_module_of(trainer, "utilities.exceptions")._TunerExitException


def _refuse_what_cannot_come_back(trainer: Any) -> None:
    if trainer.state.status == "running":
        raise misconfiguration(trainer, "Expected a Trainer at rest, got one that runs. Use the callback inside it.")
    launcher = trainer.strategy.launcher
    if launcher is not None and any(base.__name__ == "_MultiProcessingLauncher" for base in type(launcher).__mro__):
        raise misconfiguration(
            trainer,
            "Expected a Trainer that runs in this process, got a strategy that starts others"
            f" ({type(trainer.strategy).__name__}): what they find stays with them. Put the callback into the Trainer.",
        )


def _owners_of_settings(trainer: Any) -> list[Any]:
    """The objects that the set-up of a ``fit`` writes into."""
    loops = [trainer.validate_loop, trainer.test_loop, trainer.predict_loop]
    return [
        trainer,
        trainer.state,
        trainer.strategy,
        trainer._data_connector,
        trainer._logger_connector,
        trainer._checkpoint_connector,
        trainer._callback_connector,
        trainer._signal_connector,
        *loops,
        *(loop._data_source for loop in loops),
    ]
