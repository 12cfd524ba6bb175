"""A rehearsal without a training: sets up a Trainer as ``fit`` does, calls a function, and restores the Trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from lightning_hp.rehearsal.participants import participants, undecided_callbacks
from lightning_hp.rehearsal.refusals import refuse_started_processes
from lightning_hp.rehearsal.stand_in_loop import new_loop
from lightning_hp.snapshot import RandomState, Snapshot, restore_dict
from lightning_hp.trainer import lightning_module_of, misconfiguration, muted
from lightning_hp.trainer.base_classes import Callback

if TYPE_CHECKING:
    import pytorch_lightning as pl

_Result = TypeVar("_Result")


def rehearse_outside_fit(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    act: Callable[[pl.Trainer, pl.LightningModule], _Result],
    train_dataloaders: Any = None,
    datamodule: Any = None,
) -> _Result:
    """Calls ``act(trainer, pl_module)`` where ``fit`` calls ``on_fit_start``, then restores Trainer and module.

    ``prepare_data``, ``setup`` and ``configure_optimizers`` run as in ``fit``. A ``fit`` with the same Trainer and
    module afterwards is the same as without this call.

    Args:
        trainer: A Trainer that is not running.
        pl_module: The module to rehearse.
        act: The function to call; it may start a rehearsal.
        train_dataloaders: As for ``fit``.
        datamodule: As for ``fit``.

    Returns:
        What ``act`` returned.

    Raises:
        MisconfigurationException: If the Trainer is running, or starts processes of its own (``ddp_spawn``, a
            notebook), from which no result comes back.

    """
    inside: Any = trainer
    _refuse_running_and_spawning(inside)
    random_state = RandomState(inside.strategy.root_device)
    settings = [(owner, dict(vars(owner))) for owner in _owners_of_settings(inside)]
    undecided = undecided_callbacks(inside)
    state = Snapshot(pl_module, *undecided, data=[] if datamodule is None else [datamodule])
    caller = _Caller(act)
    try:
        inside.fit_loop = new_loop(inside)
        acting = [*participants(inside), *undecided]
        with muted(inside, [*(callback for callback in inside.callbacks if callback in acting), caller]):
            inside.fit(pl_module, train_dataloaders=train_dataloaders, datamodule=datamodule)
    finally:
        for owner, attributes in settings:
            restore_dict(vars(owner), attributes)
        state.restore()
        random_state.restore()
    result: _Result = caller.results[0]
    return result


class _Caller(Callback):
    """Calls the function at ``on_fit_start`` and ends ``fit`` there."""

    def __init__(self, act: Callable[[pl.Trainer, pl.LightningModule], Any]) -> None:
        self._act = act
        self.results: list[Any] = []

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.results.append(self._act(trainer, pl_module))
        # Lightning's own way to leave `fit` before the training: it tears down, reports success and returns.
        raise lightning_module_of(trainer, "utilities.exceptions")._TunerExitException


def _refuse_running_and_spawning(trainer: Any) -> None:
    if trainer.state.status == "running":
        raise misconfiguration(
            trainer, "Expected a Trainer that is not running, but got one that is. Add the callback to it instead."
        )
    refuse_started_processes(trainer)


def _owners_of_settings(trainer: Any) -> list[Any]:
    """The objects into which the set-up of ``fit`` writes."""
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
