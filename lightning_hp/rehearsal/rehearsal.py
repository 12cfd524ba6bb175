"""A rehearsal: run the training steps that ``fit`` would run, measure, and put everything back, bit for bit.

The Trainer's fit loop is never entered. An *understudy*, a second loop of the same class, takes its place for as long
as the rehearsal lasts: it has loaders, counters and logged results of its own, and its ``advance`` is Lightning's own
code for one batch, so that the strategy, the precision plugin, accumulation, clipping and the module's hooks act as
they will in the training. Of the callbacks only those act that change the gradients. Afterwards the user's loop, which
has seen nothing, is put back, and with it every tensor, attribute, counter and random stream.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback
from torch import Tensor
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from lightning_hp.rehearsal.loaders import copy_loaders, loader_roots
from lightning_hp.rehearsal.namespace import lightning_module_of, misconfiguration
from lightning_hp.rehearsal.silence import SilentLogger
from lightning_hp.rehearsal.snapshot import RandomStreams, Snapshot

if TYPE_CHECKING:
    import pytorch_lightning as pl

#: The module's hooks that a training which starts now would still run before its first batch.
HOOKS_BEFORE_FIT = ("on_fit_start", "on_train_start", "on_train_epoch_start")
HOOKS_BEFORE_EPOCH = ("on_train_epoch_start",)

_STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy", "ModelParallelStrategy")
# Lightning's own callback that decides how many batches make a step.
_STEP_CALLBACKS = ("GradientAccumulationScheduler",)
# Callbacks of these packages are known: what they have to say, they say.
_LIBRARIES = ("lightning", "pytorch_lightning", "lightning_hp")
_STEP_HOOKS = (
    "on_train_start",
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
)
# A training that does not step within so many batches never will.
_PATIENCE = 1000


def changes_gradients(callback: Any) -> bool:
    """Whether a callback is part of what a training step *is*, and so acts in a rehearsal.

    A callback says so with a class attribute ``changes_gradients = True``. It then sees every hook of the batch, the
    backward pass and the optimizer step, and ``on_train_start`` and ``on_train_epoch_start`` before the first one; it
    must be ready after ``setup``. Its attributes are put back afterwards like everything else. Say it of callbacks
    that freeze layers, mix samples, or edit gradients, not of those that watch.

    Example:
        >>> class NoisyGradients(Callback):
        ...     changes_gradients = True
        >>> changes_gradients(NoisyGradients()), changes_gradients(Callback())
        (True, False)

    """
    declared = bool(getattr(callback, "changes_gradients", False))
    return declared or any(base.__name__ in _STEP_CALLBACKS for base in type(callback).__mro__)


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
        self._recorder = _Recorder()
        self._passes = 0
        self._undo = ExitStack()

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers that the steps use."""
        return list(self.trainer.strategy.optimizers)

    def __enter__(self) -> Rehearsal:
        self._refuse_what_cannot_be_rehearsed()
        with ExitStack() as undo:  # a failure in here undoes what was begun
            self._prepare(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()

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
        losses.clear()
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
        put_back_attributes(self.trainer, self._settings)
        self._run_hooks()

    def _prepare(self, undo: ExitStack) -> None:
        """Remembers everything, then brings the Trainer to its first batch. What is remembered first returns last."""
        trainer, strategy = self.trainer, self.trainer.strategy
        undo.callback(RandomStreams(strategy.root_device).restore)
        undo.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        for owner in (trainer, strategy):
            undo.callback(put_back_attributes, owner, dict(vars(owner)))
        self._state = Snapshot(*self._owners_of_state(), data=[d for d in [trainer.datamodule] if d is not None])
        undo.callback(self._state.restore)
        undo.callback(_reshard, self._module)
        loaders = self._request_loaders()
        data = Snapshot(data=loader_roots(loaders))
        undo.callback(data.restore)
        self._refuse_one_way_data(self._state.one_way + data.one_way)
        self._install(loaders)
        undo.callback(self._end_workers)
        self._begin()

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

    def _request_loaders(self) -> Any:
        """The loaders that ``fit`` will use, or has built already, as copies."""
        loop = self.trainer.fit_loop
        if loop._combined_loader is not None:
            return copy_loaders(loop._combined_loader)
        data_connector = lightning_module_of(self.trainer, "trainer.connectors.data_connector")
        return copy_loaders(data_connector._request_dataloader(loop._data_source))

    def _install(self, loaders: Any) -> None:
        """Puts the understudy and its silent surroundings in place."""
        trainer = self.trainer
        self._loop = _understudy(trainer, loaders)
        trainer.fit_loop = self._loop
        trainer.callbacks = [*gradient_callbacks(trainer), self._recorder]
        trainer._loggers = [SilentLogger(logger) for logger in trainer.loggers]
        trainer._logger_connector = type(trainer._logger_connector)(trainer)
        trainer.profiler = lightning_module_of(trainer, "profilers").PassThroughProfiler()
        # The caller decides the learning rate of every step; a schedule has its own length and may refuse to go on.
        self._loop.epoch_loop.update_lr_schedulers = _do_nothing

    def _begin(self) -> None:
        """What ``fit`` does between here and its first batch."""
        torch.set_grad_enabled(True)
        self._loop.setup_data()
        if self._loop._data_fetcher is None or self._loop.max_batches == 0:
            raise misconfiguration(
                self.trainer, "Expected training batches to rehearse, got none. Give `fit` a training loader with data."
            )
        self._settings = dict(vars(self.trainer))  # hooks may change them, as GradientAccumulationScheduler does
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
        if self._loop._data_fetcher is not None:
            self._loop._data_fetcher.teardown()

    def _refuse_what_cannot_be_rehearsed(self) -> None:
        trainer = self.trainer
        strategy = trainer.strategy
        if not any(base.__name__ in _STRATEGIES for base in type(strategy).__mro__):
            raise misconfiguration(
                trainer,
                "Expected a strategy whose training can be put back exactly (single device, DDP, FSDP2 through"
                f" ModelParallelStrategy), got {type(strategy).__name__}. Tune under one of these.",
            )
        if not strategy.optimizers or type(strategy.optimizers[0]).__name__ == "_MockOptimizer":
            raise misconfiguration(
                trainer, "Expected `configure_optimizers` to return an optimizer, got none: there is nothing to tune."
            )
        if trainer.limit_train_batches == 0:
            raise misconfiguration(trainer, "Expected training batches to rehearse, got `limit_train_batches=0`.")
        lazy = [name for name, parameter in self._module.named_parameters() if _is_uninitialized(parameter)]
        if lazy:
            raise misconfiguration(
                trainer,
                f"Expected initialized parameters, got uninitialized lazy ones: {', '.join(lazy[:3])}. Run one batch"
                " through the model before `fit`.",
            )

    def _refuse_one_way_data(self, one_way: list[str]) -> None:
        if one_way:
            raise misconfiguration(
                self.trainer,
                f"Expected training data that can be started again, got {', '.join(one_way[:3])}: what a rehearsal"
                " draws from it would be lost to the training. Build the iterator inside `__iter__`, or give the data"
                " `state_dict` and `load_state_dict`, or use a loader with workers.",
            )


class _Recorder(Callback):
    """Keeps the loss of every batch of a step."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self._backward: list[Tensor] = []

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if not pl_module.automatic_optimization:
            self._backward.append(loss.detach())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if pl_module.automatic_optimization:
            if isinstance(loss, Tensor):
                self.losses.append(loss * trainer.accumulate_grad_batches)  # Lightning divided it
        else:
            self._record_manual(trainer, loss)

    def _record_manual(self, trainer: pl.Trainer, loss: Any) -> None:
        backward, self._backward = self._backward, []
        if isinstance(loss, Tensor):
            self.losses.append(loss.detach())
        elif len(trainer.strategy.optimizers) > 1:
            raise misconfiguration(
                trainer,
                f"Expected `training_step` to return the loss that {len(trainer.strategy.optimizers)} optimizers"
                " together bring down, got none. Return it; if there is no such loss (a GAN), tune without a finder.",
            )
        elif backward:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            scale = scaler.get_scale() if scaler is not None else 1.0
            self.losses.append(torch.stack(backward).sum() / scale)


def undecided_callbacks(trainer: Any) -> list[str]:
    """Class names of the user's own callbacks that could shape a step and do not say whether they do."""
    return [
        type(callback).__name__
        for callback in trainer.callbacks
        if not hasattr(callback, "changes_gradients")
        and type(callback).__module__.partition(".")[0] not in _LIBRARIES
        and any(getattr(type(callback), hook) is not getattr(Callback, hook) for hook in _STEP_HOOKS)
    ]


def _is_uninitialized(parameter: Any) -> bool:
    return isinstance(parameter, UninitializedParameter)


def gradient_callbacks(trainer: Any) -> list[Any]:
    """The callbacks of a Trainer that act in a rehearsal."""
    return [callback for callback in trainer.callbacks if changes_gradients(callback)]


def fresh_loop(trainer: Any) -> Any:
    """A fit loop that has not begun, with the limits of the Trainer's own."""
    loop = trainer.fit_loop
    fresh: Any = type(loop)(trainer, min_epochs=loop.min_epochs, max_epochs=loop.max_epochs)
    fresh.epoch_loop = type(loop.epoch_loop)(trainer, loop.epoch_loop.min_steps, loop.epoch_loop.max_steps)
    return fresh


def _understudy(trainer: Any, loaders: Any) -> Any:
    """A fit loop like the Trainer's, at the same place in the training, over other loaders."""
    loop, understudy = trainer.fit_loop, fresh_loop(trainer)
    for ours, theirs, names in (
        (understudy, loop, ("epoch_progress",)),
        (understudy.epoch_loop, loop.epoch_loop, ("batch_progress", "_batches_that_stepped")),
        (understudy.epoch_loop.automatic_optimization, loop.epoch_loop.automatic_optimization, ("optim_progress",)),
        (understudy.epoch_loop.manual_optimization, loop.epoch_loop.manual_optimization, ("optim_step_progress",)),
    ):
        for name in names:
            setattr(ours, name, copy.deepcopy(getattr(theirs, name)))
    understudy._data_source = type(loop._data_source)(loaders, loop._data_source.name)
    return understudy


def _reshard(module: torch.nn.Module) -> None:
    """Between forward and backward FSDP2 holds gathered weights: after a failure there, back to the shards."""
    for child in module.modules():
        reshard = getattr(child, "reshard", None)
        if callable(reshard) and hasattr(child, "unshard"):
            reshard()


def put_back_attributes(owner: Any, saved: dict[str, Any]) -> None:
    """Makes ``vars(owner)`` what it was: the same names for the same objects."""
    live = vars(owner)
    for name in live.keys() - saved.keys():
        del live[name]
    live.update(saved)


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    pass
