"""Finds out which callbacks shape a training step: calls their hooks in two steps, and compares what they were given.

Lightning has no mark for a callback that changes the batch, the gradients or the weights. A callback that declares
nothing is therefore called in rehearsed steps, which are undone afterwards. If a hook leaves other bits in the batch,
in a parameter, a buffer or a gradient, freezes a parameter, or leaves another number, text or flag in an attribute of
the module, of the data, of the Trainer (``gradient_clip_val``) or of the optimizers (``momentum``; rates are set by the
rehearsal), the callback acts in the rehearsal. One of the steps is of the first epoch and one of the last. With several
processes only the hooks before the second one are called: in it they would wait for one on which a hook fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_hp.rehearsal.participants import OBSERVED_HOOKS, overrides
from lightning_hp.rehearsal.plain_values import plain_values
from lightning_hp.second_pass.reachable import Reachable
from lightning_hp.second_pass.writes import fingerprints
from lightning_hp.trainer import StandIn, flatten_loaders, is_hook, no_op


class Observed(StandIn):
    """A callback in an observed step; stands in the Trainer's list instead of it.

    The hooks that may shape a step are called; all others do nothing.

    Args:
        callback: The callback.
        pl_module: The module.
        hooks: The names of the hooks that are called.

    Attributes:
        callback: The callback.
        changed_in: The first hook that changed something; ``""`` if none did.
        error: What a hook raised; after that none is called.

    """

    def __init__(self, callback: Any, pl_module: Any, hooks: Sequence[str] = OBSERVED_HOOKS) -> None:
        super().__init__(callback)
        self.callback = callback
        self.changed_in = ""
        self.error: Exception | None = None
        self._module = pl_module
        self._hooks = hooks

    @property
    def sees_validation(self) -> bool:
        """Whether the callback may shape a batch of the validation."""
        return overrides(self.callback, "on_validation_batch_start")

    def _read(self, original: Any, name: str) -> Any:
        value = getattr(original, name)
        if not is_hook(name):
            return value
        return partial(self._call, name, value) if name in self._hooks else no_op

    def _call(self, name: str, hook: Any, *args: Any, **kwargs: Any) -> None:
        if self.error is not None:
            return
        given = [*args[2:], *kwargs.values()]  # without the Trainer and the module
        holders = [*self._module.modules(), *_data_of(args[0])]
        before = None if self.changed_in else _State(self._module, given, holders, args[0])
        try:
            hook(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - what it needs may come with a hook that is not called here
            self.error = error
        if before is not None and before != _State(self._module, given, holders, args[0]):
            self.changed_in = name


class _State:
    """The bits of what a hook may change, and which objects hold them."""

    def __init__(self, pl_module: Any, given: Sequence[Any], holders: Sequence[Any], trainer: Any) -> None:
        reachable = Reachable()
        reachable.visit(given)
        parameters = list(pl_module.parameters())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        # The tensors are kept, so that no other object gets one of these ids.
        self._tensors = [*reachable.tensors, *parameters, *pl_module.buffers(), *gradients]
        self._values = (
            [id(tensor) for tensor in self._tensors],
            fingerprints(self._tensors) if self._tensors else [],
            [parameter.requires_grad for parameter in parameters],
            [module.training for module in pl_module.modules()],
            plain_values(holders),
            [(name, value) for name, value in vars(trainer).items() if _is_setting(name, value)],
            [_options(group) for optimizer in trainer.optimizers for group in optimizer.param_groups],
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _State) and self._values == other._values

    __hash__ = None  # type: ignore[assignment]


def _is_setting(name: str, value: Any) -> bool:
    """Whether an attribute of the Trainer may be a setting of a step; a request to stop is none."""
    return name != "should_stop" and isinstance(value, (bool, int, float, str, type(None)))


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """The options of a parameter group, without those of its rate."""
    kinds = (bool, int, float, str, tuple, type(None))
    return {name: value for name, value in group.items() if isinstance(value, kinds) and "lr" not in name}


def _data_of(trainer: Any) -> list[Any]:
    """The datamodule and the loaders of the Trainer, if it has them."""
    names = ("train_dataloader", "val_dataloaders", "test_dataloaders", "predict_dataloaders")
    loaders = [getattr(trainer, name, None) for name in names]
    return [getattr(trainer, "datamodule", None), *flatten_loaders([found for found in loaders if found is not None])]


def acting_of(trainer: Any, declared: Sequence[Any], observed: Sequence[Observed]) -> list[Any]:
    """The callbacks that act, in the Trainer's order: those that declare it, and those that shaped a step.

    A collective call: what shapes a step on one process acts on all of them.

    Args:
        trainer: The Trainer.
        declared: The callbacks that declare that they act.
        observed: The others, after the observed step.

    """
    reduce = trainer.strategy.reduce_boolean_decision
    changed = {id(one.callback) for one in observed if reduce(bool(one.changed_in), all=False)}
    acting = [callback for callback in trainer.callbacks if callback in declared or id(callback) in changed]
    name_what_was_observed(observed, acting)
    return acting


def name_what_was_observed(observed: Sequence[Observed], acting: Sequence[Any]) -> None:
    """Logs which callbacks act, and which could not be observed or changed nothing."""
    for one in observed:
        name = type(one.callback).__name__
        if one.callback in acting:
            where = f"in `{one.changed_in}`" if one.changed_in else "on another process"
            rank_zero_info(f"Rehearsal: {name} acts in the rehearsed steps, since it shapes a step {where}.")
        elif one.error is not None:
            rank_zero_info(
                f"Rehearsal: {name} does not act in the rehearsed steps, since its hooks raised"
                f" {type(one.error).__name__} ({one.error}) before the training. If it shapes the steps, make it ready"
                " in `setup`."
            )
    quiet = [type(one.callback).__name__ for one in observed if one.callback not in acting and one.error is None]
    if quiet:
        rank_zero_info(
            f"Rehearsal: {', '.join(quiet)} did not act: no change in the observed steps. A callback that shapes"
            " others needs the class attribute `changes_gradients = True`; with `changes_gradients = False` it is not"
            " observed."
        )
