"""A rehearsal: run the training steps that ``fit`` would run, measure, and put everything back, bit for bit.

The Trainer's fit loop is never entered. An *understudy*, a second loop of the same class, takes its place for as long
as the rehearsal lasts: it has loaders, counters and logged results of its own, and its ``advance`` is Lightning's own
code for one batch, so that the strategy, the precision plugin, accumulation, clipping and the module's hooks act as
they will in the training. Of the callbacks only those act that change the gradients. Afterwards the user's loop, which
has seen nothing, is put back, and with it every tensor, attribute, counter and random stream.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_hp.rehearsal.participants import gradient_callbacks
from lightning_hp.rehearsal.recorder import LossRecorder
from lightning_hp.rehearsal.refusals import refuse_one_way_data, refuse_what_cannot_be_rehearsed
from lightning_hp.rehearsal.stand_in_loop import make_understudy, run_one_validation_batch
from lightning_hp.snapshot import RandomStreams, Snapshot, put_back_dict
from lightning_hp.trainer import (
    SilentLogger,
    copy_loaders,
    lightning_module_of,
    loader_roots,
    misconfiguration,
    request_loaders,
    reshard,
)

if TYPE_CHECKING:
    import pytorch_lightning as pl

#: The module's hooks that a training which starts now would still run before its first batch.
HOOKS_BEFORE_FIT = ("on_fit_start", "on_train_start", "on_train_epoch_start")
HOOKS_BEFORE_EPOCH = ("on_train_epoch_start",)

# A training that does not step within so many batches never will.
_PATIENCE = 1000


class Rehearsal:
    """Real training steps that leave no trace; a context manager.

    Inside the ``with`` block :meth:`step` trains the model. When the block ends, normally or by any exception
    (Ctrl-C too), weights, buffers, gradients, optimizer and scaler state, the module's attributes, random streams,
    samplers, the Trainer's loop, callbacks, loggers and flags are what they were. No file is written, no validation
    runs, no logger hears of it. On several processes nothing that restores is collective, so that a failure on one
    rank ends the run as it would end a training, without a deadlock.

    Args:
        trainer: A Trainer inside ``fit``, at ``on_fit_start`` or later (the strategy is set up, optimizers exist).
        pl_module: Its module.
        hooks: The module's hooks to run before the first step: those that ``fit`` has not yet called itself.

    Raises:
        MisconfigurationException: On entry, before any step, when the training cannot be rehearsed: an unsupported
            strategy, no optimizer, no training batches, uninitialized lazy parameters, or data that cannot be rewound.

    Costs one copy of weights, buffers and optimizer state in host memory, and per step what ``fit`` costs.

    """

    def __init__(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, hooks: Sequence[str] = HOOKS_BEFORE_FIT
    ) -> None:
        # The room reads and writes fields that Lightning does not declare: for the type checker it is anything.
        self.trainer: Any = trainer
        self._module = pl_module
        self._hooks = tuple(hooks)
        self._call = lightning_module_of(trainer, "trainer.call")
        self._recorder = LossRecorder()
        self._loop: Any = None
        self._passes = 0
        self._undo = ExitStack()

    def __enter__(self) -> Rehearsal:
        refuse_what_cannot_be_rehearsed(self.trainer, self._module)
        with ExitStack() as undo:  # a failure in here undoes what was begun
            self._prepare(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.__exit__(kind, error, trace)

    def step(self) -> Tensor:
        """Runs one optimizer step, over as many batches as it takes with gradient accumulation.

        Returns:
            The mean training loss of those batches before the step, shape ``()``, detached, on the device: reading
            its value is the only synchronisation, and it is left to the caller. On several processes it is this
            rank's loss.

        """
        loop = self._loop.epoch_loop
        steps_before = loop.global_step
        losses = self._recorder.losses
        self._recorder.clear()
        batches = 0
        while loop.global_step == steps_before or not losses:
            if batches == _PATIENCE:
                raise misconfiguration(
                    self.trainer,
                    f"Expected `training_step` to reach an optimizer step with a loss; {_PATIENCE} batches went by"
                    " without. Return the loss from `training_step`, and step the optimizer if you do so by hand.",
                )
            batches += 1
            self._advance()
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    @property
    def num_samples(self) -> int | None:
        """Samples that went through the last :meth:`step` on this process; ``None`` if a batch holds no tensor."""
        counts = self._recorder.num_samples
        return None if None in counts else sum(filter(None, counts))

    @property
    def first_batch(self) -> int | None:
        """Samples in the first batch of the last :meth:`step`; ``None`` if it holds no tensor."""
        return self._recorder.num_samples[0]

    @property
    def loaders(self) -> list[Any]:
        """The training loaders of the steps, one for each of a nest, as the strategy has prepared them."""
        return list(self._loop._combined_loader.flattened)

    def read(self, losses: Sequence[Tensor]) -> list[float]:
        """The values of losses that :meth:`step` returned, averaged over all processes: one synchronisation.

        On several processes every rank must call it at the same step.
        """
        stacked = torch.stack(list(losses)).detach()
        if stacked.dtype in (torch.float16, torch.bfloat16):
            stacked = stacked.float()
        values: list[float] = self.trainer.strategy.reduce(stacked, reduce_op="mean").tolist()
        return values

    def rewind(self) -> None:
        """Puts model, optimizers, scaler and callbacks back to the start. The data and the dice go on."""
        self._state.restore()
        put_back_dict(vars(self.trainer), self._settings)
        self._run_hooks()

    def restart(self, build: Callable[[], Any], accumulate_grad_batches: int | None = None) -> None:
        """Begins again from the start over other training loaders, after an error in a step too.

        Args:
            build: Gives the loaders: what ``fit`` takes. It is called when everything is back at the start, so what it
                writes into the module or the datamodule, a batch size for instance, is there in the steps that follow.
            accumulate_grad_batches: Batches for one optimizer step; ``None``: as in the training.

        """
        self._end_workers()
        put_back_dict(vars(self.trainer), self._settings)
        self.trainer.fit_loop = self._users_loop
        self._state.restore()
        self._begin(build())
        if accumulate_grad_batches is not None:
            self.trainer.accumulate_grad_batches = accumulate_grad_batches

    def validate(self) -> bool:
        """Runs one batch of the validation that ``fit`` will run, if there is one.

        Metrics are updated and not computed, so that nothing is exchanged between processes. :meth:`rewind` or
        :meth:`restart` takes back what it did.

        Returns:
            Whether there was a batch.

        """
        source = self._users_loop.epoch_loop.val_loop._data_source
        if not source.is_defined():
            return False
        loaders = copy_loaders(request_loaders(self.trainer, source))
        self._undo.callback(Snapshot(data=loader_roots(loaders)).restore)
        return run_one_validation_batch(self.trainer, type(source)(loaders, source.name), self._recorder)

    def _prepare(self, undo: ExitStack) -> None:
        """Remembers everything, then brings the Trainer to its first batch. What is remembered first returns last."""
        trainer, strategy = self.trainer, self.trainer.strategy
        undo.callback(RandomStreams(strategy.root_device).restore)
        undo.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        for owner in (trainer, strategy):
            undo.callback(put_back_dict, vars(owner), dict(vars(owner)))
        self._state = Snapshot(*self._owners_of_state(), data=[d for d in [trainer.datamodule] if d is not None])
        undo.callback(self._state.restore)
        undo.callback(reshard, self._module)
        loop = trainer.fit_loop
        ready = loop._combined_loader
        loaders = copy_loaders(request_loaders(trainer, loop._data_source) if ready is None else ready)
        data = Snapshot(data=loader_roots(loaders))
        undo.callback(data.restore)
        refuse_one_way_data(self.trainer, self._state.one_way + data.one_way)
        self._users_loop = loop
        self._silence()
        undo.callback(self._end_workers)
        self._begin(loaders)

    def _owners_of_state(self) -> list[Any]:
        """The objects that a training step writes into."""
        trainer, strategy = self.trainer, self.trainer.strategy
        return [
            self._module,
            *strategy.optimizers,
            *strategy._lightning_optimizers,
            *(config.scheduler for config in strategy.lr_scheduler_configs),
            trainer.precision_plugin,
            *gradient_callbacks(trainer),
        ]

    def _silence(self) -> None:
        """Puts silent surroundings in place: of the callbacks only those that are part of a step, no logger."""
        trainer = self.trainer
        trainer.callbacks = [*gradient_callbacks(trainer), self._recorder]
        trainer._loggers = [SilentLogger(logger) for logger in trainer.loggers]
        trainer.profiler = lightning_module_of(trainer, "profilers").PassThroughProfiler()

    def _begin(self, loaders: Any) -> None:
        """What ``fit`` does between here and its first batch, with an understudy in the place of its loop."""
        trainer = self.trainer
        self._loop = trainer.fit_loop = make_understudy(trainer, loaders)
        self._passes = 0
        trainer._logger_connector = type(trainer._logger_connector)(trainer)
        # The caller decides the learning rate of every step; a schedule has its own length and may refuse to go on.
        self._loop.epoch_loop.update_lr_schedulers = _do_nothing
        torch.set_grad_enabled(True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the training's own loaders `fit` says it; of others nobody needs it
            self._loop.setup_data()
        if self._loop._data_fetcher is None or self._loop.max_batches == 0:
            raise misconfiguration(
                trainer, "Expected training batches to rehearse, got none. Give `fit` a training loader with data."
            )
        self._settings = dict(vars(trainer))  # hooks may change them, as GradientAccumulationScheduler does
        self._run_hooks()
        self._start_pass()

    def _run_hooks(self) -> None:
        """The hooks between here and the first batch: what they prepare, the steps may need."""
        self._clear_gradients()
        for config in self.trainer.strategy.lr_scheduler_configs:
            vars(config.scheduler)["step"] = _do_nothing  # for `self.lr_schedulers().step()` by hand
        for hook in self._hooks:
            if hook != "on_fit_start":  # callbacks are ready after `setup`
                self._call._call_callback_hooks(self.trainer, hook)
            self._call._call_lightning_module_hook(self.trainer, hook)

    def _start_pass(self) -> None:
        """Begins a pass over the loaders; samplers shuffle anew. The epoch stays: this is still the start."""
        loop = self._loop
        fit_loop = lightning_module_of(self.trainer, "loops.fit_loop")
        for loader in loop._combined_loader.flattened:
            fit_loop._set_sampler_epoch(loader, loop.epoch_progress.current.processed + self._passes)
        loop.epoch_loop.reset()
        if self._passes:
            iter(loop._data_fetcher)  # the first iterator of a run was made by `setup_data`
        self._passes += 1

    def _advance(self) -> None:
        """One batch, by Lightning's own code; at the end of the data, on with the next pass."""
        fetcher = self._loop._data_fetcher
        if fetcher.done:
            self._start_pass()
        try:
            self._loop.epoch_loop.advance(fetcher)
        except StopIteration:  # the data ended unannounced, or `on_train_batch_start` returned -1
            self._start_pass()

    def _clear_gradients(self) -> None:
        """A gradient that exists would be added to, in place: the user's tensor is set aside instead."""
        for parameter in self._module.parameters():
            parameter.grad = None

    def _end_workers(self) -> None:
        if self._loop is not None and self._loop._data_fetcher is not None:
            self._loop._data_fetcher.teardown()
            self._loop._data_fetcher = None


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    pass
