"""Builds the optimizers and schedulers of a Trainer again, in the Trainer or without any effect on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch.optim import Optimizer

from lightning_hp.snapshot import RandomState, Snapshot, Undo
from lightning_hp.trainer.namespace import lightning_module_of

if TYPE_CHECKING:
    import pytorch_lightning as pl


class Optimizers(NamedTuple):
    """What ``configure_optimizers`` returned.

    Attributes:
        optimizers: The optimizers.
        schedulers: The schedulers of all of them.
    """

    optimizers: list[Optimizer]
    schedulers: list[Any]


def training_has_begun(trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
    """Whether building the optimizers again would lose a state: after ``on_fit_start``, or after an optimizer step."""
    if pl_module._current_fx_name != "on_fit_start":
        return True
    states = (state for optimizer in trainer.strategy.optimizers for state in optimizer.state.values())
    # Adagrad creates its state before the first step.
    return any(not isinstance(state, dict) or float(state.get("step", 1)) > 0 for state in states)


def build_optimizers(trainer: pl.Trainer) -> None:
    """Builds optimizers and schedulers again through the strategy, as ``fit`` does; the random state stays."""
    strategy = trainer.strategy
    random_state = RandomState(strategy.root_device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `fit` has shown the same warnings
            strategy.setup_optimizers(trainer)
        # The rest of what `Strategy.setup` does with optimizers. The model was set up there already.
        _, strategy.optimizers, strategy.lr_scheduler_configs = strategy.precision_plugin.connect(
            trainer.lightning_module if strategy.model is None else strategy.model,
            strategy.optimizers,
            strategy.lr_scheduler_configs,
        )
        strategies = lightning_module_of(trainer, "strategies.strategy")
        strategies._optimizers_to_device(strategy.optimizers, strategy.root_device)
    finally:
        random_state.restore()


class Build(Protocol):
    """The function of :func:`building_without_effects`."""

    def __call__(self, prepare: Callable[[], None] = ...) -> Optimizers:
        """Restores the original state, calls ``prepare()``, and returns what ``configure_optimizers`` builds."""


@contextmanager
def building_without_effects(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[Build]:
    """Gives a function that runs ``configure_optimizers``, each time from the same state; restores it at the end.

    Use what one call built before the next call: both may share tensors, or be the same object.
    """
    strategy = trainer.strategy
    random_state = RandomState(strategy.root_device)
    # A module may create its optimizer in `__init__`, and attach a new scheduler to it in each call.
    state = Snapshot(pl_module, *strategy.optimizers, *(config.scheduler for config in strategy.lr_scheduler_configs))
    known = {key for _, key in _parameter_hooks(pl_module)}  # torch never uses the key of a hook twice
    core = lightning_module_of(trainer, "core.optimizer")

    def restore() -> None:
        state.restore()
        random_state.restore()
        for hooks, key in _parameter_hooks(pl_module):
            if key not in known:
                del hooks[key]

    def build(prepare: Callable[[], None] = lambda: None) -> Optimizers:
        restore()
        prepare()
        optimizers, configs = core._init_optimizers_and_lr_schedulers(pl_module)
        return Optimizers(optimizers, [config.scheduler for config in configs])

    with Undo() as undo, warnings.catch_warnings():
        undo.callback(restore)
        warnings.simplefilter("ignore")  # `fit` has shown the same warnings
        yield build


def num_parameter_hooks(pl_module: pl.LightningModule) -> int:
    """The number of backward hooks on the parameters of a module."""
    return len(_parameter_hooks(pl_module))


def _parameter_hooks(pl_module: pl.LightningModule) -> list[tuple[dict[int, Any], int]]:
    """Every hook on a parameter, as the dict that holds it and its key there."""
    dicts = [hooks for p in pl_module.parameters() for hooks in (p._backward_hooks, p._post_accumulate_grad_hooks)]
    return [(hooks, key) for hooks in dicts if hooks is not None for key in hooks]
