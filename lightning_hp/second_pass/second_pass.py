"""The second forward and backward pass through a training step, of which nobody hears.

A strategy's ``training_step`` is shadowed for one call, so that the second pass starts where the first did: with the
same arguments, the same dice, after whatever other callbacks and hooks have done to the batch. The second pass goes
through the strategy and the precision plugin, as the first does, but past the backward hooks of others. What it logs is
not heard and what it writes besides gradients is taken back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from lightning_hp.second_pass.batch_copy import copy_batch
from lightning_hp.second_pass.side_effects import SideEffects
from lightning_hp.second_pass.uncounted_writes import STEPS_TO_LOOK, SilentWrites, fingerprints
from lightning_hp.snapshot import RandomStreams, put_back_dict
from lightning_hp.trainer import SilentLogger, is_apart, misconfiguration


class SecondPass:
    """Runs a training step's forward and backward pass once more.

    :meth:`arm` before the step, :meth:`set_gradients_aside` in ``on_before_backward``; in ``on_after_backward``
    :meth:`conclude_first`, then move the weights, :meth:`run`, and move them back; :meth:`disarm` whenever the step is
    over.

    Args:
        trainer: The Trainer, inside ``fit``.
        module: Its module.
        silent: What is known of the training's silent writes, to be handed to the next one.

    Raises:
        MisconfigurationException: If the module holds an iterator, which a step would draw from twice.

    """

    def __init__(self, trainer: Any, module: Any, silent: SilentWrites | None = None) -> None:
        self._trainer = trainer
        self._module = module
        optimized = optimized_parameters(trainer)
        known = {id(parameter) for parameter in optimized}
        # Found once: a walk over all layers takes longer than all else here.
        self._not_optimized = [parameter for parameter in module.parameters() if id(parameter) not in known]
        trained = [parameter for parameter in optimized if parameter.requires_grad]
        self._effects = SideEffects(module, trained, SilentWrites() if silent is None else silent)
        if one_way := self._effects.one_way():
            raise misconfiguration(
                trainer,
                f"Expected a module whose training step can be repeated, got an iterator on it ({one_way[0]}), and what"
                " is drawn from it is gone. Combine loaders with a `CombinedLoader`, or keep a list and a position.",
            )
        self._parameters: list[Tensor] = []
        self._stash: list[tuple[Tensor, Tensor]] = []
        self._looks = 0
        self._prints: list[int] = []
        self._arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._streams_before: RandomStreams | None = None
        self._streams_after: RandomStreams | None = None
        self._versions: list[tuple[Tensor, int]] = []
        self._sync: bool | None = None
        self._shadowed: dict[str, Any] | None = None
        #: The loss of the first pass, on its own scale.
        self.loss: Tensor | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether a first pass has gone by that can be repeated."""
        return self._arguments is not None

    def arm(self, synchronise: bool | None) -> None:
        """Listens to the next training step.

        Args:
            synchronise: Whether its backward pass averages the gradient over the processes of DDP; ``None``: as it
                would.

        """
        self.disarm()  # a batch may have been skipped
        strategy = self._trainer.strategy
        step = strategy.training_step
        self._shadowed = dict(vars(strategy))

        def listen(*args: Any, **kwargs: Any) -> Any:
            self._stop_listening()
            self._record(args, kwargs, synchronise)
            output = step(*args, **kwargs)
            loss = _loss_of(output)
            self.loss = None if loss is None else loss.detach().clone()
            return output

        vars(strategy)["training_step"] = listen

    def disarm(self) -> None:
        """The step is over, however it ended: everything is as if nobody had listened."""
        self._stop_listening()
        self._synchronise_as_planned()
        self._arguments, self._versions, self.loss = None, [], None
        self._streams_before = self._streams_after = None
        self._parameters, self._stash, self._prints = [], [], []
        self._effects.forget()

    def set_gradients_aside(self) -> None:
        """Takes what has been accumulated, of the optimizer's parameters and of the module's others, out of ``.grad``.

        The first backward pass then finds nothing, and the second one adds to what was set aside.
        """
        self._parameters = [*optimized_parameters(self._trainer), *self._not_optimized]
        self._stash = [(parameter, grad) for parameter in self._parameters if (grad := parameter.grad) is not None]
        for parameter, _ in self._stash:
            parameter.grad = None

    def conclude_first(self) -> None:
        """Keeps what the first pass has left, which is to stay; refuses a batch that it wrote into."""
        self._refuse_a_changed_batch()
        self._synchronise_as_planned()
        self._streams_after = RandomStreams(self._trainer.strategy.root_device)
        self._effects.after()

    def run(self) -> Tensor:
        """The second pass: adds its gradient to what was set aside.

        Returns:
            The loss, on its own scale, shape ``()``, detached.

        """
        before, after = self._streams_before, self._streams_after
        assert self._arguments is not None
        assert before is not None
        assert after is not None
        args, kwargs = self._arguments
        trainer, module, strategy = self._trainer, self._module, self._trainer.strategy
        surroundings = dict(vars(trainer))
        results, hook = trainer._results, trainer._logger_connector._current_fx
        try:
            trainer._loggers = [SilentLogger(logger) for logger in trainer.loggers]
            vars(module).update(log=_hear_nothing, log_dict=_hear_nothing)
            # A method that was taken from the module earlier, or `super().log`, ends here.
            vars(results).update(log=_hear_nothing, reset=_hear_nothing)
            before.restore()
            self._effects.replay()
            for leaf in self._batch():  # of an attack on the input
                if leaf.is_leaf and leaf.grad is not None:
                    leaf.grad = None
            loss = _loss_of(strategy.training_step(*args, **kwargs))
            # A step that goes backward by itself (for an attack on its input, say) leaves gradients behind, which
            # Lightning clears before the backward pass.
            for parameter in self._parameters:
                parameter.grad = None
            for parameter, grad in self._stash:
                parameter.grad = grad
            if loss is None:
                raise misconfiguration(
                    trainer,
                    "Expected `training_step` to return a loss for the same batch again, got none: SAM repeats the step"
                    " at perturbed weights. Decide by the batch, not by chance or by a count of your own.",
                )
            value = loss.detach().clone()
            loss = loss / trainer.accumulate_grad_batches
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            if scaler is not None:
                loss = scaler.scale(loss)
            strategy.pre_backward(loss)
            trainer.precision_plugin.backward(loss, module, trainer.optimizers[0])
            strategy.post_backward(loss)
        finally:
            put_back_dict(vars(trainer), surroundings)
            for name in ("log", "reset"):
                vars(results).pop(name, None)
            trainer._logger_connector._current_fx = hook
            self._effects.put_back()  # the muting of the module's log is among it
            after.restore()
            self._arguments = None
        return value

    def _stop_listening(self) -> None:
        if self._shadowed is not None:
            attributes = vars(self._trainer.strategy)
            if "training_step" in self._shadowed:
                attributes["training_step"] = self._shadowed["training_step"]
            else:
                attributes.pop("training_step", None)
        self._shadowed = None

    def _record(self, args: tuple[Any, ...], kwargs: dict[str, Any], synchronise: bool | None) -> None:
        # Containers are copied, so that a step may take its batch apart; tensors are watched.
        self._arguments, tensors = copy_batch((args, kwargs))
        self._versions = [(leaf, leaf._version) for leaf in tensors if not leaf.is_inference()]
        self._prints = fingerprints(self._batch()) if self._looks < STEPS_TO_LOOK else []
        self._looks += 1
        if any(leaf.grad_fn is not None for leaf, _ in self._versions):
            raise misconfiguration(
                self._trainer,
                "Expected a batch of plain data, got a tensor with a graph of its own: SAM goes backward twice, and the"
                " graph is gone after the first. Compute it in `training_step`, or detach it.",
            )
        self._effects.before()
        self._streams_before = RandomStreams(self._trainer.strategy.root_device)
        ddp = self._trainer.strategy.model
        if synchronise is not None and isinstance(ddp, DistributedDataParallel):
            self._sync = ddp.require_backward_grad_sync
            ddp.require_backward_grad_sync = (synchronise or bool(ddp.static_graph)) and not is_apart(self._trainer)

    def _synchronise_as_planned(self) -> None:
        """The backward passes from here on reach the other processes when Lightning wants them to."""
        ddp = self._trainer.strategy.model
        if self._sync is not None and isinstance(ddp, DistributedDataParallel):
            ddp.require_backward_grad_sync = self._sync
        self._sync = None

    def _batch(self) -> list[Tensor]:
        return [leaf for leaf, _ in self._versions]

    def _refuse_a_changed_batch(self) -> None:
        is_written = any(leaf._version != version for leaf, version in self._versions)
        if is_written or (self._prints and fingerprints(self._batch()) != self._prints):
            raise misconfiguration(
                self._trainer,
                "Expected `training_step` to leave its batch as it is, got a tensor of it that was written in place:"
                " SAM repeats the step on the same batch. Work on a copy (`x = x.clone()`), or write in"
                " `on_after_batch_transfer`.",
            )


def optimized_parameters(trainer: Any) -> list[Tensor]:
    """What the only optimizer of a training holds."""
    return [parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]]


def _loss_of(output: Any) -> Tensor | None:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    return loss if isinstance(loss, Tensor) else None


def _hear_nothing(*args: Any, **kwargs: Any) -> None:
    pass
