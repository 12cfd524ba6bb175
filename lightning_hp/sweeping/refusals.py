"""What is refused before the first training, since it would fail there or compare equal trainings."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from lightning_hp.functional.checks import is_number
from lightning_hp.sweeping.built import Built
from lightning_hp.sweeping.executors import visible_devices
from lightning_hp.sweeping.extras import require
from lightning_hp.sweeping.space import Space


def refuse_searched(callbacks: Iterable[Any], space: Space, where: str) -> None:
    """Refuses finders of what is swept."""
    from lightning_hp.callbacks import BatchSizeScaler, LRFinder

    searched = {BatchSizeScaler: ("batch_size",), LRFinder: ("lr", "learning_rate")}
    for callback in callbacks:
        if names := [name for name in searched.get(type(callback), ()) if name in space.names]:
            raise ValueError(
                f"Expected {type(callback).__name__} in {where} or {names[0]!r} in `space`, but got both: the finder"
                " would replace the value that is swept."
            )


def refuse_unpicklable(arguments: Mapping[str, Any]) -> None:
    """Refuses arguments that worker processes cannot get."""
    cloudpickle = require("cloudpickle", "workers")
    for name, value in arguments.items():
        try:
            cloudpickle.dumps(value)
        except Exception as error:  # noqa: PERF203
            raise TypeError(
                f"Expected a `{name}` that can be sent to worker processes, but it cannot be pickled:"
                f" {type(error).__name__}: {error}. Open files and connections in `build`, not outside it."
            ) from error


def refuse_unread(space: Space, read: set[str]) -> None:
    """Refuses names that the user's function does not read."""
    if unread := [name for name in space.names if name not in read]:
        raise ValueError(
            f"Expected `build` to read every name of `space`, but it does not read {', '.join(map(repr, unread))}: all"
            " values of it would be the same training."
        )


def refuse_built(built: Built, arguments: Mapping[str, Any], monitor: str) -> None:
    """Refuses what can be seen to fail before a training."""
    if monitor.startswith("val") and not built.has_validation:
        raise ValueError(
            f"Expected validation data for `monitor={monitor!r}`, but `build` returns none: return (model, (training"
            " loader, validation loader)), or a datamodule."
        )
    strategy = {**arguments, **built.trainer}.get("strategy")
    if isinstance(strategy, str) and strategy.startswith(("ddp", "fsdp", "deepspeed")) and "_" not in strategy:
        raise ValueError(
            f"Expected a strategy with one process, or one that forks or spawns, but got {strategy!r}, which starts the"
            " script again in each process: each would sweep. `lightning-hp sweep` runs each training as a process."
        )


def refuse_several_devices(devices: Any) -> None:
    """Refuses workers whose Trainer needs more accelerators than they see."""
    if is_number(devices) and devices > 1 and (seen := visible_devices()):
        raise ValueError(
            f"Expected `devices=1` with `workers`, since each worker sees one of the {len(seen)} accelerators, but got"
            f" devices={devices}. Use `workers=1`, or an `executor` that gives each training its devices."
        )


def refuse_unknown(built: Built, arguments: Mapping[str, Any]) -> None:
    """Refuses arguments that the Trainer does not have."""
    known = inspect.signature(import_module(built.package).Trainer.__init__).parameters
    if unknown := [name for name in {**arguments, **built.trainer} if name not in known]:
        raise ValueError(f"Expected arguments of the Trainer in `trainer`, but it has no {unknown[0]!r}.")
