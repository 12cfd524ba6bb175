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
from torch.utils._pytree import tree_leaves, tree_map

from lightning_hp.rehearsal.namespace import misconfiguration
from lightning_hp.rehearsal.ranks import is_apart
from lightning_hp.rehearsal.side_effects import SideEffects
from lightning_hp.rehearsal.silence import SilentLogger
from lightning_hp.rehearsal.snapshot import RandomStreams, put_back_dict


class SecondPass:
    """Runs a training step's forward and backward pass once more.

    :meth:`arm` before the step, then, in ``on_after_backward`` and with ``.grad`` as the second pass shall find it,
    :meth:`run`; :meth:`disarm` whenever the step is over.

    Args:
        trainer: The Trainer, inside ``fit``.
        module: Its module.

    """

    def __init__(self, trainer: Any, module: Any) -> None:
        self._trainer = trainer
        self._module = module
        self._effects = SideEffects(module)
        self._arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._streams: RandomStreams | None = None
        self._versions: list[tuple[Tensor, int]] = []
        self._sync: bool | None = None
        self._shadowed: dict[str, Any] | None = None
        #: The loss of the first pass, on its own scale.
        self.loss: Tensor | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether a first pass has gone by that can be repeated."""
        return self._arguments is not None

    def arm(self, synchronise: bool) -> None:
        """Listens to the next training step.

        Args:
            synchronise: Whether its backward pass averages the gradient over the processes of DDP.

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
        self._arguments, self._streams, self._versions, self.loss = None, None, [], None
        self._effects.forget()

    def run(self) -> Tensor:
        """The second pass: adds its gradient to ``.grad``.

        Returns:
            The loss, on its own scale, shape ``()``, detached.

        """
        assert self._arguments is not None
        assert self._streams is not None
        args, kwargs = self._arguments
        self._refuse_a_changed_batch()
        self._synchronise_as_planned()
        trainer, module, strategy = self._trainer, self._module, self._trainer.strategy
        after = RandomStreams(strategy.root_device)
        self._effects.after()
        surroundings = dict(vars(trainer))
        try:
            trainer._loggers = [SilentLogger(logger) for logger in trainer.loggers]
            vars(module).update(log=_hear_nothing, log_dict=_hear_nothing)
            self._streams.restore()
            self._effects.replay()
            loss = _loss_of(strategy.training_step(*args, **kwargs))
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

    def _record(self, args: tuple[Any, ...], kwargs: dict[str, Any], synchronise: bool) -> None:
        # Containers are copied, so that a step may take its batch apart; tensors are watched.
        self._arguments = tree_map(_itself, (args, kwargs))
        self._versions = [(leaf, leaf._version) for leaf in tree_leaves(self._arguments) if _has_version(leaf)]
        if any(leaf.grad_fn is not None for leaf, _ in self._versions):
            raise misconfiguration(
                self._trainer,
                "Expected a batch of plain data, got a tensor with a graph of its own: SAM goes backward twice, and the"
                " graph is gone after the first. Compute it in `training_step`, or detach it.",
            )
        self._effects.before()
        self._streams = RandomStreams(self._trainer.strategy.root_device)
        ddp = self._trainer.strategy.model
        if isinstance(ddp, DistributedDataParallel):
            self._sync = ddp.require_backward_grad_sync
            ddp.require_backward_grad_sync = (synchronise or bool(ddp.static_graph)) and not is_apart(self._trainer)

    def _synchronise_as_planned(self) -> None:
        """The backward passes from here on reach the other processes when Lightning wants them to."""
        ddp = self._trainer.strategy.model
        if self._sync is not None and isinstance(ddp, DistributedDataParallel):
            ddp.require_backward_grad_sync = self._sync
        self._sync = None

    def _refuse_a_changed_batch(self) -> None:
        if any(leaf._version != version for leaf, version in self._versions):
            raise misconfiguration(
                self._trainer,
                "Expected `training_step` to leave its batch as it is, got a tensor of it that was written in place:"
                " SAM repeats the step on the same batch. Work on a copy (`x = x.clone()`), or write in"
                " `on_after_batch_transfer`.",
            )


def _loss_of(output: Any) -> Tensor | None:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    return loss if isinstance(loss, Tensor) else None


def _has_version(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not leaf.is_inference()


def _itself(leaf: Any) -> Any:
    return leaf


def _hear_nothing(*args: Any, **kwargs: Any) -> None:
    pass
