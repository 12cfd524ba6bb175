"""The file that says what is swept, and how."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_hp.functional.checks import check_int, wrong_value

if TYPE_CHECKING:
    from lightning_hp.sweeping.scaled_rate import ScaledRate
    from lightning_hp.sweeping.space import Space


_NEEDED = ("space", "monitor", "mode")


_DEFAULTS: Mapping[str, Any] = {
    "strategy": "one_at_a_time",
    "n_trials": None,
    "order": "given",
    "start": None,
    "refine": 0,
    "seeds": 1,
    "scale_lr": None,
    "reduce": "last",
    "storage": None,
    "logdir": "runs/sweep",
    "name": "sweep",
    "workers": 1,
    "cost": "parameters",
    "on_error": "record",
    "cli": None,
}


@dataclass(frozen=True)
class Options:
    """The entries of a sweep file, checked.

    Attributes:
        space: The subjects.
        start: The start as it was given.
        words: ``monitor``, ``mode``, ``order``, ``reduce``, ``cost``, ``on_error`` and ``name``.
        seeds: The seeds.
        strategy: The name of a strategy, or a sampler.
        n_trials: Number of settings that a sampler chooses.
        refine: Number of further settings.
        workers: The most trainings at once.
        rate: The learning rate that follows the batch size, or ``None``.
        folder: Folder of the logs.
        storage: The storage as it was given.
        cli: The command as it was given.

    """

    space: Space
    start: Any
    words: Mapping[str, Any]
    seeds: tuple[int, ...]
    strategy: Any
    n_trials: int | None
    refine: int
    workers: int
    rate: ScaledRate | None
    folder: str | None
    storage: Any
    cli: Any


def check_entries(entries: Mapping[str, Any]) -> Options:
    """Checks the entries of a sweep file."""
    from lightning_hp.sweeping.arguments import check_folder, check_seeds, check_strategy, check_words
    from lightning_hp.sweeping.process import OWN_KEYS
    from lightning_hp.sweeping.scaled_rate import scaled_rate
    from lightning_hp.sweeping.space import Space

    space = Space(_split_names(entries["space"]), entries["start"])
    if own := [name for name in OWN_KEYS if name in space.names]:
        raise ValueError(f"Expected config keys other than {own[0]!r} in `space`: the sweep sets it itself.")
    names = ("monitor", "mode", "order", "reduce", "cost", "on_error", "name")
    words = check_words(**{name: entries[name] for name in names})
    lengths = {"trainer.max_epochs", "trainer.max_steps"} & set(space.names)
    if words["order"] == "measured" and lengths:
        raise ValueError(
            f"Expected `order: given` where {min(lengths)} is in `space`: it is measured with short trainings."
        )
    strategy = _strategy(entries["strategy"])
    check_strategy(strategy, entries["n_trials"])
    return Options(
        space=space,
        start=entries["start"],
        words=words,
        seeds=check_seeds(entries["seeds"]),
        strategy=strategy,
        n_trials=entries["n_trials"],
        refine=check_int("refine", entries["refine"], 0),
        workers=check_int("workers", entries["workers"], 1),
        rate=scaled_rate(entries["scale_lr"], space),
        folder=None if entries["logdir"] is None else check_folder(entries["logdir"]),
        storage=entries["storage"],
        cli=entries["cli"],
    )


def read_mapping(path: str) -> dict[str, Any]:
    """A file of YAML or JSON; numbers such as ``1e-3`` are numbers, as in LightningCLI."""
    from lightning_hp.sweeping.extras import require

    yaml = require("yaml", "sweep")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"Expected {path} to be a file that can be read: {reason}.") from error

    class Loader(yaml.SafeLoader):  # type: ignore[misc,name-defined]
        pass

    number = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        read = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"Expected YAML in {path}: {' '.join(str(error).split())}.") from error
    if not isinstance(read, dict) or not all(isinstance(name, str) for name in read):
        got = "nothing" if read is None else str(read)[:80]
        raise ValueError(f"Expected a mapping of names and values in {path}, got {got}.")
    return read


def read_entries(path: str) -> dict[str, Any]:
    """Reads a sweep file, with the defaults."""
    entries = read_mapping(path)
    names = (*_NEEDED, *_DEFAULTS)
    if unknown := [name for name in entries if name not in names]:
        raise ValueError(f"Expected entries of {path} among {', '.join(names)}; got {unknown[0]!r}.")
    if missing := [name for name in _NEEDED if name not in entries]:
        raise ValueError(f"Expected an entry `{missing[0]}` in {path}.")
    return {**_DEFAULTS, **entries}


def _split_names(space: Any) -> Any:
    """Keys such as ``a, b`` as tuples: names that move together."""
    if not isinstance(space, Mapping):
        return space  # refused by Space
    names = {name: tuple(part.strip() for part in str(name).split(",")) for name in space}
    return {(parts if len(parts) > 1 else parts[0]): space[name] for name, parts in names.items()}


def _strategy(strategy: Any) -> Any:
    """A strategy by name, or a sampler by its class in ``optuna.samplers``."""
    import optuna

    named = getattr(optuna.samplers, strategy, None) if isinstance(strategy, str) else None
    if not (isinstance(named, type) and issubclass(named, optuna.samplers.BaseSampler)):
        return strategy
    sampler: Any = named
    parameters = inspect.signature(sampler).parameters
    if any(one.default is one.empty for one in parameters.values()):
        wrong_value("strategy", "a sampler that needs no arguments", strategy)
    return sampler(seed=0) if "seed" in parameters else sampler()
