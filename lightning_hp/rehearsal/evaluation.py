"""A rehearsal of ``validate``, ``test`` or ``predict``: runs batches of other sizes and restores every state."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lightning_hp.rehearsal.hooks import called_among, without_hook
from lightning_hp.rehearsal.observation import Observed, acting_of
from lightning_hp.rehearsal.participants import evaluation_hooks, evaluation_participants, undecided_callbacks
from lightning_hp.rehearsal.recorder import num_samples_of
from lightning_hp.rehearsal.refusals import refuse_started_processes
from lightning_hp.snapshot import RandomState, Snapshot, Undo, restore_dict, uninterrupted
from lightning_hp.trainer import (
    collect_apart,
    copy_loaders,
    end_workers,
    loader_roots,
    misconfiguration,
    muted,
    request_loaders,
    written_into_stand_ins,
)

if TYPE_CHECKING:
    import pytorch_lightning as pl


def evaluation_loop(trainer: pl.Trainer) -> Any:
    """The loop of the ``validate``, ``test`` or ``predict`` that is running."""
    return getattr(trainer, _loop_name(trainer))


def _loop_name(trainer: Any) -> str:
    return f"{trainer.state.fn.value}_loop"


class EvaluationRehearsal:
    """Batches of ``validate``, ``test`` or ``predict``, after which every state is restored; a context manager.

    A second loop of the same class replaces the Trainer's own, as in a :class:`~lightning_hp.rehearsal.Rehearsal`. Each
    :meth:`step` runs one batch by Lightning's own code. Metrics are updated and not computed, so processes exchange
    nothing. Callbacks that declare ``changes_gradients``, and those that change the batch or the module in one observed
    step, act.

    Args:
        trainer: A Trainer inside ``validate``, ``test`` or ``predict``, at the hook ``on_*_start``.
        pl_module: Its module.
        caller: The callback in whose hook this is: callbacks before it have had that hook. ``None``: all of them had.

    Raises:
        MisconfigurationException: On entry, if there is no batch, or the Trainer starts processes of its own.

    """

    def __init__(self, trainer: pl.Trainer, pl_module: pl.LightningModule, caller: Any = None) -> None:
        self.trainer: Any = trainer
        self._module = pl_module
        self._caller = caller
        self._name = _loop_name(trainer)
        self._own_loop: Any = evaluation_loop(trainer)
        self._loop: Any = None
        self._batch: int | None = None
        self._undo = Undo()
        # The callbacks that act, and what stands for them in the Trainer's list; `None`: not known yet.
        self._acting: list[Any] | None = None
        self._listed: list[Any] = []
        self._called: list[Any] = []  # those of them that had the hook in which this is

    def __enter__(self) -> EvaluationRehearsal:
        refuse_started_processes(self.trainer)
        if self._acting is None:
            self._acting = self._listed = self._find_acting()
        self._undo.__enter__()
        try:
            self._prepare(self._undo, self._acting)
            return self  # within the `try`: an interrupt between the two would leave everything changed
        except BaseException:  # undo what was already done
            self.__exit__(None, None, None)
            raise

    @uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.__exit__(kind, error, trace)

    def restart(self, build: Callable[[], Any], accumulate_grad_batches: int | None = None) -> None:
        """As :meth:`Rehearsal.restart <lightning_hp.rehearsal.Rehearsal.restart>`, without accumulation."""
        self._end_workers()
        self._state.restore()
        setattr(self.trainer, self._name, self._own_loop)
        self._begin(build())

    def step(self) -> None:
        """Runs one batch; after the last one the first again."""
        loop = self._loop
        try:
            batch, batch_idx, dataloader_idx = next(loop._data_fetcher)
        except StopIteration:
            loop.reset()
            batch, batch_idx, dataloader_idx = next(loop._data_fetcher)
        self._batch = num_samples_of(batch)
        run = loop._predict_step if self._name == "predict_loop" else loop._evaluation_step
        run(batch, batch_idx, dataloader_idx, None)

    def validate(self) -> bool:
        """No other loop follows, so there is nothing to run."""
        return False

    @property
    def num_samples(self) -> int | None:
        """Samples of the last batch; ``None`` if it contains no tensor."""
        return self._batch

    @property
    def first_batch(self) -> int | None:
        """The same, since a step is one batch."""
        return self._batch

    @property
    def pass_is_over(self) -> bool:
        """Whether the last batch of :meth:`step` was the last one of a pass over the data."""
        return bool(self._loop._data_fetcher.done)

    @property
    def loaders(self) -> list[Any]:
        """The loaders as the strategy prepared them."""
        return list(self._loop._combined_loader.flattened)

    def _find_acting(self) -> list[Any]:
        """The callbacks that declare that they act, and those that are seen to shape one step."""
        trainer, declared = self.trainer, evaluation_participants(self.trainer)
        hooks = evaluation_hooks(trainer.state.fn.value)
        observed = [Observed(callback, self._module, hooks) for callback in undecided_callbacks(trainer, hooks[-1:])]
        if not observed:
            return declared
        instead = {id(one.callback): one for one in observed}
        observation = EvaluationRehearsal(trainer, self._module, self._caller)
        observation._acting = [c for c in trainer.callbacks if c in declared or id(c) in instead]
        observation._listed = [instead.get(id(callback), callback) for callback in observation._acting]
        try:
            with observation:
                observation.step()
        except Exception as error:
            # The same step fails in the rehearsal, or another batch size is tried there. On several processes the
            # others wait in a step that this one has left.
            if trainer.world_size > 1 or type(error).__name__ == "MisconfigurationException":
                raise
        return acting_of(trainer, declared, observed)

    def _prepare(self, undo: Undo, acting: list[Any]) -> None:
        """Takes the snapshots and brings the Trainer to its first batch. What is taken first is restored last."""
        trainer = self.trainer
        undo.callback(RandomState(trainer.strategy.root_device).restore)
        undo.callback(restore_dict, vars(trainer), dict(vars(trainer)))
        self._own_connector = trainer._logger_connector
        callbacks = list(trainer.callbacks)
        self._called = called_among(self._listed, self._caller, callbacks)
        undo.enter_context(muted(trainer, self._listed))
        datamodule = getattr(trainer, "datamodule", None)
        owners = [self._module, trainer.precision_plugin, *acting, *written_into_stand_ins(trainer)]
        self._state = Snapshot(*owners, data=[] if datamodule is None else [datamodule], callbacks=callbacks)
        undo.callback(self._state.restore)
        loaders = copy_loaders(request_loaders(trainer, self._own_loop._data_source))
        undo.callback(Snapshot(data=loader_roots(loaders)).restore)
        undo.callback(self._end_workers)
        self._begin(loaders)

    def _begin(self, loaders: Any) -> None:
        trainer, own_loop = self.trainer, self._own_loop
        kwargs: dict[str, Any] = {"inference_mode": own_loop.inference_mode}
        if self._name != "predict_loop":
            kwargs |= {"trainer_fn": own_loop._trainer_fn, "stage": own_loop._stage, "verbose": False}
        self._loop = type(own_loop)(trainer, **kwargs)
        self._loop._data_source = type(own_loop._data_source)(loaders, own_loop._data_source.name)
        setattr(trainer, self._name, self._loop)
        collect_apart(trainer, self._own_connector)
        self._loop.setup_data()
        if self._loop._combined_loader is None or self._loop.skip:
            raise misconfiguration(trainer, "Expected batches to rehearse, but got none. Give a loader with data.")
        self._loop.reset()
        if type(self._loop._data_fetcher).__name__ == "_DataLoaderIterDataFetcher":
            raise misconfiguration(
                trainer,
                "Expected a step that takes a batch, but got one that takes `dataloader_iter`. Set the size by hand.",
            )
        with without_hook(self._called, evaluation_hooks(trainer.state.fn.value)[0]):
            self._loop.on_run_start()

    def _end_workers(self) -> None:
        if self._loop is not None:
            end_workers(self._loop)
