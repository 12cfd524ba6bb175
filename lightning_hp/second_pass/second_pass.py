"""The second forward and backward pass through a training step, of which only the gradient is kept.

The ``training_step`` of the strategy is replaced for one call, so that the second pass gets the same arguments and the
same random state as the first, after all that other callbacks and hooks have done to the batch. The second pass runs
through the strategy and the precision plugin, as the first does, but not through the backward hooks of others. What it
logs is discarded, and what it writes besides gradients is undone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from lightning_hp.second_pass.recorded_call import RecordedCall
from lightning_hp.second_pass.side_effects import SideEffects
from lightning_hp.second_pass.writes import FINGERPRINTED_STEPS, Writes
from lightning_hp.snapshot import RandomState, Undo, restore_dict
from lightning_hp.trainer import misconfiguration, muted, no_op, ranks_are_independent


class SecondPass:
    """Repeats the forward and backward pass of a training step.

    The order of the calls: :meth:`record_next_step` before the step; :meth:`stash_gradients` in ``on_before_backward``;
    in ``on_after_backward`` :meth:`end_first_pass` and :meth:`rewind`, then move the weights, :meth:`repeat`, and
    restore the weights; :meth:`discard` at the end of the step, however it ends.

    Args:
        trainer: The Trainer, inside ``fit``.
        module: Its module.
        writes: The large tensors that the steps are known to write; pass the same object in the whole training.

    Raises:
        MisconfigurationException: If the module holds an iterator, from which both passes would draw.

    """

    def __init__(self, trainer: Any, module: Any, writes: Writes | None = None) -> None:
        self._trainer = trainer
        self._module = module
        optimized = optimized_parameters(trainer)
        ids = {id(parameter) for parameter in optimized}
        # Listed once, since the walk over all layers takes longer than everything else here.
        self._not_optimized = [parameter for parameter in module.parameters() if id(parameter) not in ids]
        trained = [parameter for parameter in optimized if parameter.requires_grad]
        self._effects = SideEffects(module, trained, writes or Writes(), trainer.callbacks)
        if iterators := self._effects.iterators():
            raise misconfiguration(
                trainer,
                f"Expected a module whose training step can be repeated, but got an iterator on it ({iterators[0]}),"
                " and what is drawn from it cannot be drawn again. Combine loaders with a `CombinedLoader`, or keep a"
                " list and a position.",
            )
        self._num_recorded = 0
        # The method of the strategy that is replaced while a step is recorded, if the strategy's `__dict__` has one.
        self._replaced: dict[str, Any] | None = None
        self._gradient_sync: bool | None = None
        self._call: RecordedCall | None = None
        self._random_before: RandomState | None = None
        self._random_after: RandomState | None = None
        self._parameters: list[Tensor] = []
        self._stashed: list[tuple[Tensor, Tensor]] = []
        #: The loss of the first pass, without accumulation or gradient scaling, shape ``()``.
        self.loss: Tensor | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether a first pass has been recorded that can be repeated."""
        return self._call is not None

    def record_next_step(self, synchronize: bool | None) -> None:
        """Records the arguments and the random state of the next training step.

        Args:
            synchronize: Whether its backward pass averages the gradient over the processes of DDP; ``None``: as
                Lightning has set it.

        """
        self.discard()  # the step that was to be recorded before may have been skipped
        strategy = self._trainer.strategy
        step = strategy.training_step
        self._replaced = {name: value for name, value in vars(strategy).items() if name == "training_step"}

        def recorded_step(*args: Any, **kwargs: Any) -> Any:
            self._restore_strategy()
            self._begin_first_pass(args, kwargs, synchronize)
            output = step(*args, **kwargs)
            loss = _loss_of(output)
            self.loss = None if loss is None else loss.detach().clone()
            return output

        vars(strategy)["training_step"] = recorded_step

    def discard(self) -> None:
        """Deletes the record of the step and restores the strategy."""
        self._restore_strategy()
        self._restore_gradient_sync()
        self._call = self.loss = None
        self._random_before = self._random_after = None
        self._parameters, self._stashed = [], []
        self._effects.clear()

    def stash_gradients(self) -> None:
        """Moves the gradients accumulated so far, of all parameters of the optimizer and the module, out of ``.grad``.

        The first backward pass then starts without gradients, and the second one adds to the stashed ones.
        """
        self._parameters = [*optimized_parameters(self._trainer), *self._not_optimized]
        self._stashed = [(parameter, grad) for parameter in self._parameters if (grad := parameter.grad) is not None]
        for parameter, _ in self._stashed:
            parameter.grad = None

    def end_first_pass(self) -> None:
        """Saves the state that the first pass has left, and refuses a batch that it has written.

        Raises:
            MisconfigurationException: If a tensor of the batch was written in place.

        """
        assert self._call is not None
        self._call.end_first_pass()
        self._restore_gradient_sync()
        self._random_after = RandomState(self._trainer.strategy.root_device)
        self._effects.end_first_pass()

    def rewind(self, undo: Undo) -> None:
        """Restores all that the first pass has written to its state before it.

        This includes random states, the batch, and parameters that the step itself writes in place, so the weights are
        moved after this call, and restored before ``undo`` ends.

        Args:
            undo: At its end everything is as the first pass has left it.

        """
        call, before = self._call, self._random_before
        assert call is not None
        assert before is not None
        undo.callback(self._end_second_pass)
        before.restore()
        self._effects.rewind()
        call.rewind()

    def _end_second_pass(self) -> None:
        """Restores what the first pass has left."""
        call, after = self._call, self._random_after
        assert call is not None
        assert after is not None
        self._effects.restore()
        call.restore()
        after.restore()
        self._call = None

    def repeat(self) -> Tensor:
        """Runs the second pass, which adds its gradient to the stashed ones.

        Returns:
            The loss, without accumulation or gradient scaling, shape ``()``, detached.

        Raises:
            MisconfigurationException: If the step returns no loss this time.

        """
        assert self._call is not None
        with Undo() as undo:
            _discard_logging(self._trainer, self._module, undo)
            loss = _loss_of(self._trainer.strategy.training_step(*self._call.args, **self._call.kwargs))
            self._unstash_gradients()
            if loss is None:
                raise misconfiguration(
                    self._trainer,
                    "Expected `training_step` to return a loss for the same batch again, but got none: SAM repeats"
                    " the step at perturbed weights. Whether a step returns a loss may depend on the batch, not on"
                    " random numbers or a counter.",
                )
            value = loss.detach().clone()
            self._backward(loss)
        return value

    def _begin_first_pass(self, args: tuple[Any, ...], kwargs: dict[str, Any], synchronize: bool | None) -> None:
        detect_uncounted = self._num_recorded < FINGERPRINTED_STEPS
        self._num_recorded += 1
        self._call = RecordedCall(self._trainer, args, kwargs, detect_uncounted=detect_uncounted)
        self._effects.begin_first_pass()
        self._random_before = RandomState(self._trainer.strategy.root_device)
        ddp = self._trainer.strategy.model
        if synchronize is not None and isinstance(ddp, DistributedDataParallel):
            self._gradient_sync = ddp.require_backward_grad_sync
            # The reducer of a static graph has to see every backward pass.
            wanted = synchronize or bool(ddp.static_graph)
            ddp.require_backward_grad_sync = wanted and not ranks_are_independent(self._trainer)

    def _unstash_gradients(self) -> None:
        """Restores the stashed gradients and removes those of the training step's own backward passes.

        Lightning clears such gradients before the backward pass too.
        """
        for parameter in self._parameters:
            parameter.grad = None
        for parameter, grad in self._stashed:
            parameter.grad = grad

    def _backward(self, loss: Tensor) -> None:
        trainer = self._trainer
        loss = loss / trainer.accumulate_grad_batches
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            loss = scaler.scale(loss)
        trainer.strategy.pre_backward(loss)
        trainer.precision_plugin.backward(loss, self._module, trainer.optimizers[0])
        trainer.strategy.post_backward(loss)

    def _restore_strategy(self) -> None:
        if self._replaced is not None:
            attributes = vars(self._trainer.strategy)
            if self._replaced:
                attributes.update(self._replaced)
            else:
                attributes.pop("training_step", None)
        self._replaced = None

    def _restore_gradient_sync(self) -> None:
        ddp = self._trainer.strategy.model
        if self._gradient_sync is not None and isinstance(ddp, DistributedDataParallel):
            ddp.require_backward_grad_sync = self._gradient_sync
        self._gradient_sync = None


def optimized_parameters(trainer: Any) -> list[Tensor]:
    """The parameters of the first optimizer of a training."""
    return [parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]]


def _loss_of(output: Any) -> Tensor | None:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    return loss if isinstance(loss, Tensor) else None


def _discard_logging(trainer: Any, module: Any, undo: Undo) -> None:
    """Discards everything that the module logs, until ``undo`` ends."""
    results, connector, attributes = trainer._results, trainer._logger_connector, vars(module)
    saved, hook = dict(vars(trainer)), connector._current_fx
    own = {name: attributes[name] for name in ("log", "log_dict") if name in attributes}

    def restore() -> None:
        restore_dict(vars(trainer), saved)
        connector._current_fx = hook
        for name in ("log", "reset"):
            vars(results).pop(name, None)
        for name in ("log", "log_dict"):
            attributes.pop(name, None)
        attributes.update(own)

    undo.callback(restore)
    attributes.update(log=no_op, log_dict=no_op)
    # Calls of `super().log`, or of a method that was looked up earlier, end here.
    vars(results).update(log=no_op, reset=no_op)
    undo.enter_context(muted(trainer, callbacks=[]))
