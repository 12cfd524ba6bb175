"""A rehearsal: run the training steps that ``fit`` would run, measure, and restore everything, bit for bit.

The Trainer's own fit loop is not entered. A second loop of the same class replaces it during the rehearsal, with
loaders, counters and logged results of its own. Its ``advance`` is Lightning's own code for one batch, so the strategy,
the precision plugin, accumulation, clipping and the module's hooks act as in the training. Of the callbacks only those
that shape a step act. Afterwards the Trainer's own loop is set again, and every tensor, attribute, counter and
random state is restored.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_hp.rehearsal.drawing import without_drawing
from lightning_hp.rehearsal.hooks import BEFORE_FIT, Hooks, Moment, callbacks_until, called_among
from lightning_hp.rehearsal.observation import Observed, acting_of
from lightning_hp.rehearsal.participants import (
    name_uncalled,
    participants,
    undecided_callbacks,
)
from lightning_hp.rehearsal.recorder import LossRecorder
from lightning_hp.rehearsal.refusals import refuse_unrestorable_data, refuse_what_cannot_be_rehearsed
from lightning_hp.rehearsal.stand_in_loop import (
    copy_progress,
    make_stand_in_loop,
    run_one_validation_batch,
    show_validation,
    validation_loaders,
)
from lightning_hp.snapshot import RandomState, Snapshot, Undo, restore_dict, uninterrupted
from lightning_hp.trainer import (
    collect_apart,
    copy_loaders,
    end_workers,
    has_bucket_views,
    lightning_module_of,
    loader_roots,
    misconfiguration,
    muted,
    no_op,
    request_loaders,
    reshard,
    written_into_stand_ins,
)

if TYPE_CHECKING:
    import pytorch_lightning as pl

# Without an optimizer step in this number of batches, a training is taken for one that never steps.
_MAX_BATCHES_PER_STEP = 1000


class Rehearsal:
    """Real training steps, after which every state is restored; a context manager.

    Within the ``with`` block :meth:`step` trains the model. When the block ends, normally or by any exception
    (including Ctrl-C), weights, buffers, gradients, optimizer and scaler state, the module's attributes, random state,
    samplers, and the Trainer's loop, callbacks, loggers and flags are restored. No file is written and nothing is
    logged; validation runs only in :meth:`validate`. Restoring needs no communication, so a failure on one of several
    processes ends the run as it would end a training, without a deadlock.

    Args:
        trainer: A Trainer inside ``fit``, at ``on_fit_start`` or later (the strategy is set up, optimizers exist).
        pl_module: Its module.
        moment: Where in the training this is. The hooks that ``fit`` has not called yet are called before the first
            step; those of the module twice, and once more in each :meth:`restart`.
        needs_loss: Whether :meth:`step` has to know the loss; ``False``: it is NaN where the module returns none.

    Raises:
        MisconfigurationException: On entry, before any step, when the training cannot be rehearsed: an unsupported
            strategy, no optimizer, no training batches, uninitialized lazy parameters, data that cannot be restored, or
            a hook that fails when it is called again.

    Note:
        Memory: one copy of weights, buffers and optimizer state in host memory, and of what the hooks change. Time: a
        step takes as long as in ``fit``. Callbacks that declare nothing are observed in two steps before the others.

    """

    def __init__(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        moment: Moment = BEFORE_FIT,
        needs_loss: bool = True,
    ) -> None:
        # Typed as Any: private attributes are read and written.
        self.trainer: Any = trainer
        self._module = pl_module
        self._moment = moment
        self._needs_loss = needs_loss
        self._recorder = LossRecorder(needs_loss)
        self._loop: Any = None
        self._passes = 0
        self._undo = Undo()
        # The callbacks that act, and what stands for them in the Trainer's list.
        self._acting: list[Any] = []
        self._listed: list[Any] = []
        self._val_loaders: Any = None
        self._has_iterator = False  # of the training's first epoch
        self._callbacks: list[Any] = []  # all that the Trainer has

    def __enter__(self) -> Rehearsal:
        refuse_what_cannot_be_rehearsed(self.trainer, self._module)
        if not self._listed:
            self._acting = self._listed = self._find_acting()
        self._undo.__enter__()
        try:
            self._prepare(self._undo)
            return self  # within the `try`: an interrupt between the two would leave everything changed
        except BaseException:  # undo what was already done
            self.__exit__(None, None, None)
            raise

    @uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.__exit__(kind, error, trace)

    def step(self) -> Tensor:
        """Runs one optimizer step, over several batches with gradient accumulation.

        Returns:
            The mean training loss of those batches before the step, shape ``()``, detached, on the device. Nothing is
            synchronized until the caller reads its value. On several processes it is the loss of this one.

        Raises:
            MisconfigurationException: If 1000 batches bring no loss or no optimizer step, or if several optimizers
                step and ``training_step`` returns no loss.

        """
        loop = self._loop.epoch_loop
        steps_before = loop.global_step
        losses = self._recorder.losses
        self._recorder.clear()
        batches = 0
        while loop.global_step == steps_before or (self._needs_loss and not losses):
            if batches == _MAX_BATCHES_PER_STEP:
                raise misconfiguration(
                    self.trainer,
                    "Expected `training_step` to return a loss and the optimizer to step, but got"
                    f" {_MAX_BATCHES_PER_STEP} batches without. Return the loss from `training_step`; with manual"
                    " optimization also step the optimizer.",
                )
            batches += 1
            self._advance()
        if not losses:
            return torch.tensor(math.nan)
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    @property
    def num_samples(self) -> int | None:
        """Samples of the last :meth:`step` on this process; ``None`` if a batch contains no tensor."""
        counts = self._recorder.num_samples
        return None if None in counts else sum(filter(None, counts))

    @property
    def first_batch(self) -> int | None:
        """Samples in the first batch of the last :meth:`step`; ``None`` if it contains no tensor."""
        return self._recorder.num_samples[0]

    @property
    def pass_is_over(self) -> bool:
        """Whether the last batch of :meth:`step` was the last one of a pass over the data."""
        return bool(self._loop._data_fetcher.done)

    @property
    def loaders(self) -> list[Any]:
        """The training loaders as a flat list, as the strategy prepared them."""
        return list(self._loop._combined_loader.flattened)

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps of an epoch, at the present accumulation; ``None`` if the data has no length."""
        batches: float = self._loop.max_batches
        if math.isinf(batches):
            return None
        # With manual optimization each batch is taken for one step.
        accumulate = self.trainer.accumulate_grad_batches if self._module.automatic_optimization else 1
        return math.ceil(batches / accumulate)

    @property
    def planned_steps(self) -> int | None:
        """Optimizer steps that the training still has to run, >= 1; ``None`` without a limit (``max_time`` is none)."""
        loop, limits = self._own_loop, list[int]()
        if loop.epoch_loop.max_steps >= 0:
            limits.append(loop.epoch_loop.max_steps - loop.epoch_loop.global_step)
        per_epoch, epochs = self.steps_per_epoch, loop.max_epochs
        if per_epoch is not None and epochs is not None and epochs >= 0:
            limits.append((epochs - loop.epoch_progress.current.completed) * per_epoch)
        return max(1, min(limits)) if limits else None

    def read(self, losses: Sequence[Tensor]) -> list[float]:
        """The values of losses that :meth:`step` returned, averaged over all processes, with one synchronization.

        A collective call: every process has to make it after the same step.
        """
        stacked = torch.stack(list(losses)).detach()
        if stacked.dtype in (torch.float16, torch.bfloat16):
            stacked = stacked.float()
        values: list[float] = self.trainer.strategy.reduce(stacked, reduce_op="mean").tolist()
        return values

    def has_diverged(self) -> bool:
        """Whether a parameter of the module is not finite; synchronizes."""
        return not all(bool(torch.isfinite(parameter).all()) for parameter in self._module.parameters())

    def rewind(self, same_batches: bool = False) -> None:
        """Restores model, optimizers, scaler, callbacks and ``global_step``. Also possible after an error in a step.

        Args:
            same_batches: Restores samplers and the random state too: after every such call the steps get the batches
                and random numbers of the first steps of the training. ``False``: they continue with other batches.

        """
        if same_batches:
            self._state.restore()
            self._data.restore()
            self._random.restore()
            self._passes = 0
            self._loop._combined_loader.reset()  # persistent workers draw no number when they start again
            with self._making_iterator(self.loaders):
                iter(self._loop._data_fetcher)  # before the hooks, as `setup_data` does
            self._data_after_hooks.restore()
            self._random_after_hooks.restore()
        self._state_after_hooks.restore()
        restore_dict(vars(self.trainer), self._settings_after_hooks)
        copy_progress(self._own_loop, self._loop)
        # At the start of a later epoch these are the batches of the one before; accumulation counts from here.
        self._loop.epoch_loop.batch_progress.reset_on_run()
        self._prepare_for_steps()
        if same_batches:
            self._start_pass()

    def restart(self, build: Callable[[], Any], accumulate_grad_batches: int | None = None) -> None:
        """Starts again over other training loaders; also possible after an error in a step.

        Args:
            build: Returns the loaders, as ``fit`` takes them. It is called after everything has been restored, so a
                value that it writes into the module or the datamodule, such as a batch size, stays for the next steps.
            accumulate_grad_batches: Batches of one optimizer step; ``None``: as in the training.

        """
        self._end_workers()
        restore_dict(vars(self.trainer), self._settings)
        self.trainer.fit_loop = self._own_loop
        self._state.restore()
        self._begin(build())
        if accumulate_grad_batches is not None:
            self.trainer.accumulate_grad_batches = accumulate_grad_batches

    def validate(self) -> bool:
        """Runs one batch of the validation that ``fit`` will run, if there is one.

        Metrics are updated and not computed, so processes exchange nothing. :meth:`rewind` and :meth:`restart` undo it.

        Returns:
            Whether there was a batch.

        """
        source = self._own_loop.epoch_loop.val_loop._data_source
        if not source.is_defined():
            return False
        loaders = copy_loaders(request_loaders(self.trainer, source))
        self._undo.callback(Snapshot(data=loader_roots(loaders)).restore)
        return run_one_validation_batch(self.trainer, type(source)(loaders, source.name), self._recorder)

    def _prepare(self, undo: Undo) -> None:
        """Takes the snapshots and brings the Trainer to its first batch. What is taken first is restored last."""
        trainer, strategy = self.trainer, self.trainer.strategy
        self._random = self._random_state()
        undo.callback(self._random.restore)
        self._callbacks = list(trainer.callbacks)
        undo.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        for owner in (trainer, trainer.state, strategy):
            undo.callback(restore_dict, vars(owner), dict(vars(owner)))
        self._own_connector = trainer._logger_connector
        undo.enter_context(muted(trainer, [*self._listed, self._recorder]))
        trainer.save_checkpoint = no_op
        self._state = Snapshot(
            *self._owners_of_state(),
            data=[d for d in [trainer.datamodule] if d is not None],
            callbacks=self._callbacks,
            # Their gradients are removed before the first step, but the buckets of DDP are written in any case.
            set_aside=[] if has_bucket_views(trainer) else self._module.parameters(),
        )
        undo.callback(self._state.restore)
        undo.callback(reshard, self._module)
        loop = trainer.fit_loop
        ready = loop._combined_loader
        loaders = copy_loaders(request_loaders(trainer, loop._data_source) if ready is None else ready)
        # What asks for the number of steps in `configure_optimizers` makes the iterator of the first epoch.
        self._has_iterator = ready is not None and trainer.current_epoch == 0
        self._data = Snapshot(data=loader_roots(loaders))
        undo.callback(self._data.restore)
        refuse_unrestorable_data(self.trainer, self._state.unrestorable + self._data.unrestorable, loaders)
        self._own_loop = loop
        if (val_loaders := loop.epoch_loop.val_loop._combined_loader) is not None:  # a step may iterate over them
            undo.callback(Snapshot(data=loader_roots(val_loaders)).restore)
        if self._moment.is_before_training:
            self._val_loaders = validation_loaders(trainer, self._module)
            if self._val_loaders is not None:
                undo.callback(Snapshot(data=loader_roots(self._val_loaders)).restore)
        undo.callback(self._end_workers)
        called = called_among(self._listed, self._moment.caller, self._callbacks)
        self._hooks = Hooks(trainer, self._module, self._moment.hooks, self._listed, called)
        self._begin(loaders, is_first=True)

    def _find_acting(self) -> list[Any]:
        """The callbacks that declare that they act, and those that are seen to shape one step."""
        trainer, declared = self.trainer, participants(self.trainer)
        if self._moment.is_before_training:
            name_uncalled(trainer.callbacks[len(callbacks_until(self._moment.caller, trainer.callbacks)) :])
        observed = [Observed(callback, self._module) for callback in undecided_callbacks(trainer)]
        if not observed:
            return declared
        instead = {id(one.callback): one for one in observed}
        observation = Rehearsal(trainer, self._module, self._moment, needs_loss=False)
        observation._acting = [c for c in trainer.callbacks if c in declared or id(c) in instead]
        observation._listed = [instead.get(id(callback), callback) for callback in observation._acting]
        try:
            with observation:
                observation.step()
                if any(one.sees_validation for one in observed):
                    observation.validate()
                observation._step_of_last_epoch()
        except Exception as error:
            # The same step fails in the rehearsal, or another batch size is tried there. On several processes the
            # others wait in a step that this one has left.
            if trainer.world_size > 1 or type(error).__name__ == "MisconfigurationException":
                raise
        return acting_of(trainer, declared, observed)

    def _step_of_last_epoch(self) -> None:
        """One more step, in the last epoch: what begins later in the training shows there.

        With several processes only the hooks before it: in the step a process would wait for one on which a hook fails.
        """
        if not math.isfinite(self._last_epoch):
            return
        self.rewind()
        if not self._start_epoch(int(self._last_epoch)):
            return
        if self.trainer.world_size == 1:
            self.step()
            return
        self._recorder.leaves_in = "on_train_batch_start"
        try:
            self._advance()
        except Exception:  # noqa: BLE001 - `LoopLeft`, or a hook fails in the last epoch when nothing came before
            return
        finally:
            self._recorder.leaves_in = None

    def _owners_of_state(self) -> list[Any]:
        """The objects into which a training step writes."""
        trainer, strategy = self.trainer, self.trainer.strategy
        return [
            self._module,
            *strategy.optimizers,
            *strategy._lightning_optimizers,
            *(config.scheduler for config in strategy.lr_scheduler_configs),
            trainer.precision_plugin,
            *self._acting,
            *written_into_stand_ins(trainer),
        ]

    def _begin(self, loaders: Any, is_first: bool = False) -> None:
        """Does what ``fit`` does from here to its first batch, with the stand-in loop."""
        trainer = self.trainer
        self._loop = trainer.fit_loop = make_stand_in_loop(trainer, loaders)
        self._passes = 0
        collect_apart(trainer, self._own_connector)
        # The caller sets the learning rate of every step; a schedule may raise when it is stepped beyond its length.
        self._loop.epoch_loop.update_lr_schedulers = no_op
        torch.set_grad_enabled(True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `fit` itself warns of the training's own loaders
            if self._val_loaders is not None:
                show_validation(trainer, self._val_loaders)
            with self._making_iterator(loaders) if is_first else nullcontext():
                self._loop.setup_data()
        if self._loop._data_fetcher is None or self._loop.max_batches == 0:
            raise misconfiguration(
                trainer, "Expected training batches to rehearse, but got none. Give `fit` a training loader with data."
            )
        self._settings = dict(vars(trainer))  # hooks may change them, as GradientAccumulationScheduler does
        self._prepare_for_steps()
        self._call_hooks(is_first)
        self._start_pass()

    def _call_hooks(self, is_first: bool) -> None:
        """Calls the hooks between here and the first batch, and saves the state that they leave, for :meth:`rewind`."""
        call = self._hooks.call
        if is_first and self._hooks.are_of_module:
            data, random_state = Snapshot(data=loader_roots(self.loaders)), self._random_state()
            self._hooks.call()
            self._state.restore()
            restore_dict(vars(self.trainer), self._settings)
            data.restore()
            random_state.restore()
            self._prepare_for_steps()
            call = self._hooks.call_again
        call()
        self._settings_after_hooks = dict(vars(self.trainer))
        self._random_after_hooks = self._random_state()
        self._state_after_hooks, self._data_after_hooks = self._state, Snapshot()
        if self._hooks.exist:
            datamodule = self.trainer.datamodule
            self._state_after_hooks = Snapshot(
                *self._owners_of_state(),
                data=[] if datamodule is None else [datamodule],
                callbacks=self._callbacks,
                earlier=self._state,
            )
            self._data_after_hooks = Snapshot(data=loader_roots(self.loaders))

    def _prepare_for_steps(self) -> None:
        """Removes gradients, since a backward pass would add to the user's tensors in place; keeps the rates."""
        for parameter in self._module.parameters():
            parameter.grad = None
        for config in self.trainer.strategy.lr_scheduler_configs:
            vars(config.scheduler)["step"] = no_op  # a module may call `self.lr_schedulers().step()`

    def _random_state(self) -> RandomState:
        return RandomState(self.trainer.strategy.root_device)

    def _making_iterator(self, loaders: Any) -> AbstractContextManager[None]:
        """For the first iterator over the data of the training, which may have made its own before."""
        return without_drawing(loaders, self.trainer.strategy.root_device) if self._has_iterator else nullcontext()

    def _start_pass(self) -> None:
        """Starts a pass over the loaders; samplers shuffle again. A later one is the next epoch, up to the last."""
        loop = self._loop
        fit_loop = lightning_module_of(self.trainer, "loops.fit_loop")
        for loader in loop._combined_loader.flattened:
            fit_loop._set_sampler_epoch(loader, self._own_loop.epoch_progress.current.processed + self._passes)
        if self._passes:
            self._start_epoch(loop.epoch_progress.current.processed + 1)
        loop.epoch_loop.reset()
        if self._passes:
            iter(loop._data_fetcher)  # the first iterator of a run was made by `setup_data`
        self._passes += 1

    def _start_epoch(self, epoch: int) -> bool:
        """Goes on to a later epoch, unless the training, or what is rehearsed of it, ends before."""
        if epoch > self._last_epoch:
            return False
        progress = self._loop.epoch_progress.current
        number = epoch - progress.processed
        for name in ("ready", "started", "processed", "completed"):
            setattr(progress, name, getattr(progress, name) + number)
        self._hooks.call_of_later_epoch()
        return True

    @property
    def _last_epoch(self) -> float:
        """The last epoch of what is rehearsed; infinite without a limit of epochs."""
        ends = (self._own_loop.max_epochs, self._moment.end_epoch)
        return min((end - 1 for end in ends if end is not None and end >= 0), default=math.inf)

    def _advance(self) -> None:
        """Runs one batch by Lightning's own code; at the end of the data a new pass starts."""
        fetcher = self._loop._data_fetcher
        if fetcher.done:
            self._start_pass()
        try:
            self._loop.epoch_loop.advance(fetcher)
        except StopIteration:  # the data ended early, or `on_train_batch_start` returned -1
            self._start_pass()

    def _end_workers(self) -> None:
        if self._loop is not None:
            end_workers(self._loop)
