"""Models and trainers that BackboneFreezing refuses before the first step, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_hp.nn.freezing.blocks import children_with_parameters
from lightning_hp.nn.freezing.schedule import NEVER, FreezingSchedule
from lightning_hp.trainer import STRATEGIES_IN_WORDS, is_supported, misconfiguration, uninitialized_parameters


def find_backbone(module: nn.Module, path: str) -> nn.Module:
    """The backbone of a module.

    Args:
        module: The module.
        path: The path of the backbone.

    Returns:
        The submodule.

    Raises:
        ValueError: If there is no submodule at this path, or the module has lazy layers.

    """
    try:
        backbone = module.get_submodule(path)
    except AttributeError:
        parts = ", ".join(children_with_parameters(module)) or "none"
        raise ValueError(
            f"expected a submodule `{path}` in {type(module).__name__}, but got none. Pass `backbone=` the name of one;"
            f" those with parameters are {parts}."
        ) from None
    lazy = uninitialized_parameters(module)
    if lazy:
        raise ValueError(
            f"expected initialized parameters, but got uninitialized lazy ones: {', '.join(lazy[:3])}. Run one batch"
            " through the model before the training."
        )
    return backbone


def backbone_in_training(trainer: Any, pl_module: nn.Module, path: str) -> nn.Module:
    """The backbone of a module that is about to be trained.

    Args:
        trainer: The Trainer.
        pl_module: Its module.
        path: The path of the backbone.

    Returns:
        The submodule.

    Raises:
        MisconfigurationException: If the strategy is not supported, there is no submodule at this path, the module has
            lazy layers, or no parameter of the backbone requires a gradient.

    """
    if not is_supported(trainer.strategy):
        raise misconfiguration(
            trainer,
            "BackboneFreezing: expected a strategy that can train some parameters and not others"
            f" ({STRATEGIES_IN_WORDS}), but got {type(trainer.strategy).__name__}. Train under one of these.",
        )
    try:
        backbone = find_backbone(pl_module, path)
    except ValueError as error:
        raise misconfiguration(trainer, f"BackboneFreezing: {error}") from None
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        what = "only frozen ones" if any(True for _ in backbone.parameters()) else "none"
        raise misconfiguration(
            trainer,
            f"BackboneFreezing: expected `{path}` to have parameters that require a gradient, but got {what}. Leave the"
            " freezing to this callback (no `requires_grad = False`, no other callback that freezes).",
        )
    return backbone


def refuse_training(
    trainer: Any,
    pl_module: nn.Module,
    path: str,
    schedule: FreezingSchedule,
    others: Mapping[str, FreezingSchedule],
) -> None:
    """Refuses a training in which the schedule has no effect.

    Args:
        trainer: The Trainer, with its optimizers.
        pl_module: Its module.
        path: The path of the backbone.
        schedule: What is frozen in which epoch.
        others: The same for the other callbacks of the Trainer that freeze, by the paths of their backbones.

    Raises:
        MisconfigurationException: If nothing would be trained in the first epoch, no optimizer holds a parameter that
            is unfrozen later, or another callback freezes one of these parameters.

    """
    names = {parameter: name for name, parameter in pl_module.named_parameters() if parameter.requires_grad}
    for other, its_schedule in others.items():
        both = [p for p, first in schedule.parameters.items() if first > 0 and its_schedule.parameters.get(p, 0) > 0]
        if shared := [names[p] for p in both if p in names]:
            raise misconfiguration(
                trainer,
                f"BackboneFreezing: expected each parameter in one of these callbacks, but {shared[0]} is in two, of"
                f" `{path}` and `{other}`. Use one with a dict from epochs to names, or give them parts that do not"
                " overlap.",
            )
    schedules = {path: schedule, **others}
    frozen = {parameter for one in schedules.values() for parameter in one.frozen(trainer.current_epoch)[0]}
    if not names.keys() - frozen:
        raise misconfiguration(
            trainer,
            f"BackboneFreezing: expected something to train while {' and '.join(f'`{one}`' for one in schedules)}"
            f" {'is' if len(schedules) == 1 else 'are'} frozen, but got nothing: all parameters of"
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
            " all of them to it in `configure_optimizers`; it skips frozen ones. If they are not to be trained, pass"
            " `unfreeze_at_epoch=None` or leave them out of its names.",
        )
