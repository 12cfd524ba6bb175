"""What BackboneFreezing cannot act on, refused before the first step with what to do instead."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from lightning_hp.nn.freezing.schedule import NEVER, FreezingSchedule
from lightning_hp.trainer import STRATEGIES_IN_WORDS, is_supported, misconfiguration


def find_backbone(trainer: Any, pl_module: nn.Module, path: str) -> nn.Module:
    """The submodule of that name; raises for a foreign strategy, no such submodule, and one that cannot be frozen."""
    if not is_supported(trainer.strategy):
        raise misconfiguration(
            trainer,
            "BackboneFreezing: expected a strategy that can train some parameters and not others"
            f" ({STRATEGIES_IN_WORDS}), got {type(trainer.strategy).__name__}. Train under one of these.",
        )
    try:
        backbone = pl_module.get_submodule(path) if path else None
    except AttributeError:
        backbone = None
    if backbone is None:
        there = [name for name, child in pl_module.named_children() if any(True for _ in child.parameters())]
        raise misconfiguration(
            trainer,
            f"BackboneFreezing: expected a submodule `{path}` in {type(pl_module).__name__}, got none. Pass"
            f" `backbone=` the name of one; those with parameters are {', '.join(there) or 'none'}.",
        )
    lazy = [name for name, parameter in pl_module.named_parameters() if isinstance(parameter, UninitializedParameter)]
    if lazy:
        raise misconfiguration(
            trainer,
            f"BackboneFreezing: expected initialized parameters, got uninitialized lazy ones: {', '.join(lazy[:3])}."
            " Run one batch through the model before `fit`.",
        )
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        what = "frozen ones alone" if any(True for _ in backbone.parameters()) else "none"
        raise misconfiguration(
            trainer,
            f"BackboneFreezing: expected `{path}` to have parameters that require a gradient, got {what}. Leave the"
            " freezing to this callback (no `requires_grad = False`, no other callback that freezes).",
        )
    return backbone


def refuse_training(trainer: Any, pl_module: nn.Module, path: str, schedule: FreezingSchedule) -> None:
    """Raises if nothing would be trained in the first epoch, or what is unfrozen later is in no optimizer."""
    names = {parameter: name for name, parameter in pl_module.named_parameters() if parameter.requires_grad}
    frozen, _ = schedule.frozen(trainer.current_epoch)
    if not names.keys() - set(frozen):
        raise misconfiguration(
            trainer,
            f"BackboneFreezing: expected something to train while `{path}` is frozen, got nothing: all parameters of"
            f" {type(pl_module).__name__} are in it. Pass `backbone=` the part without the head.",
        )
    held = {
        parameter
        for optimizer in trainer.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    to_train = [parameter for parameter, first in schedule.parameters.items() if first < NEVER and parameter in names]
    missing = [names[parameter] for parameter in to_train if parameter not in held]
    if missing:
        raise misconfiguration(
            trainer,
            f"BackboneFreezing: expected the optimizer to hold the parameters of `{path}` from the start, but"
            f" {len(missing)} of {len(to_train)} are in none ({missing[0]}, ...): they would never be trained. Give"
            " all of them to it in `configure_optimizers`; frozen ones are left alone by it. If they are not to be"
            " trained, say so with `unfreeze_at_epoch=None` or leave them out of its names.",
        )
