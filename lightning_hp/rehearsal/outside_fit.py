"""A rehearsal outside of a run: sets up a Trainer as ``fit`` does, calls a function, and restores the Trainer.

The same for ``validate``, ``test`` and ``predict``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from lightning_hp.rehearsal.participants import (
    evaluation_hooks,
    evaluation_participants,
    participants,
    undecided_callbacks,
)
from lightning_hp.rehearsal.refusals import refuse_started_processes
from lightning_hp.rehearsal.stand_in_loop import new_loop
from lightning_hp.snapshot import RandomState, Snapshot, Undo, restore_dict
from lightning_hp.trainer import lightning_module_of, misconfiguration, muted
from lightning_hp.trainer.base_classes import Callback

if TYPE_CHECKING:
    import pytorch_lightning as pl

_Result = TypeVar("_Result")


def rehearse_outside_fit(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    act: Callable[[pl.Trainer, pl.LightningModule], _Result],
    loaders: Any = None,
    datamodule: Any = None,
    function: str = "fit",
) -> _Result:
    """Calls ``act(trainer, pl_module)`` where ``fit`` calls ``on_fit_start``, then restores Trainer and module.

    In ``validate``, ``test`` and ``predict`` it is where they call ``on_*_start``.

    ``prepare_data``, ``setup`` and ``configure_optimizers`` run as in ``fit``. A ``fit`` with the same Trainer and
    module afterwards is the same as without this call.

    Args:
        trainer: A Trainer that is not running.
        pl_module: The module to rehearse.
        act: The function to call; it may start a rehearsal.
        loaders: Those that ``fit``, or the other function, takes.
        datamodule: As for ``fit``.
        function: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.

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
    is_fit = function == "fit"
    undecided = undecided_callbacks(inside) if is_fit else undecided_callbacks(inside, evaluation_hooks(function)[-1:])
    data = [] if datamodule is None else [datamodule]
    state = Snapshot(pl_module, *undecided, data=data, callbacks=inside.callbacks)
    caller = _Caller(act)
    options: dict[str, Any] = {"train_dataloaders": loaders} if is_fit else {"dataloaders": loaders}
    if function in ("validate", "test"):
        options["verbose"] = False
    with Undo() as undo:  # the callback that is registered last runs first
        undo.callback(random_state.restore)
        undo.callback(state.restore)
        for owner, attributes in settings:
            undo.callback(restore_dict, vars(owner), attributes)
        if is_fit:
            inside.fit_loop = new_loop(inside)
        declared = participants(inside) if is_fit else evaluation_participants(inside)
        acting = [*declared, *undecided]
        with muted(inside, [*(callback for callback in inside.callbacks if callback in acting), caller]):
            getattr(inside, function)(pl_module, datamodule=datamodule, **options)
    result: _Result = caller.results[0]
    return result


class _Caller(Callback):
    """Calls the function at ``on_fit_start``, or ``on_*_start`` of an evaluation, and ends the run there."""

    def __init__(self, act: Callable[[pl.Trainer, pl.LightningModule], Any]) -> None:
        self._act = act
        self.results: list[Any] = []

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.results.append(self._act(trainer, pl_module))
        # Lightning's own way to leave `fit` before the training: it tears down, reports success and returns.
        raise lightning_module_of(trainer, "utilities.exceptions")._TunerExitException

    on_validation_start = on_test_start = on_predict_start = on_fit_start


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
