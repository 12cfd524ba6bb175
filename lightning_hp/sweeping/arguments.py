"""Checks of the arguments of a sweep that need no model, for a call and for a sweep file."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import Any

from lightning_hp.functional.checks import (
    check_choice,
    check_int,
    check_iterable,
    check_str,
    is_number,
    wrong_type,
    wrong_value,
)
from lightning_hp.sweeping.refusals import refuse_searched
from lightning_hp.sweeping.space import Space


def check_words(**options: Any) -> dict[str, Any]:
    """Checks the arguments that are one of several words, or any text."""
    choices = {
        "mode": ("max", "min"),
        "order": ("given", "measured"),
        "reduce": ("last", "best"),
        "cost": ("parameters", "latency", "time"),
        "on_error": ("record", "raise"),
    }
    for name, value in options.items():
        if name in choices:
            check_choice(name, value, choices[name])
        else:
            check_str(name, value)
    return options


def check_seeds(seeds: Any) -> tuple[int, ...]:
    """The seeds that a number or a list means."""
    if is_number(seeds):
        return tuple(range(check_int("seeds", seeds, 1)))
    what = "a number of trainings, or a list of different seeds"
    listed = [check_int("seeds", seed, 0, 2**32 - 1) for seed in check_iterable("seeds", seeds, what)]
    if not listed or len(set(listed)) < len(listed):
        wrong_value("seeds", what, seeds)
    return tuple(listed)


def check_strategy(strategy: Any, n_trials: Any) -> None:
    """Checks a strategy and the number of settings that a sampler chooses."""
    import optuna

    if isinstance(strategy, (optuna.samplers.GridSampler, optuna.samplers.BruteForceSampler)):
        raise ValueError('Expected a sampler that chooses settings, but got one of a grid; use strategy="grid".')
    if isinstance(strategy, optuna.samplers.BaseSampler):
        if n_trials is None:
            raise ValueError(
                "Expected `n_trials` with a sampler as `strategy`: the number of settings that it chooses."
            )
        check_int("n_trials", n_trials, 1)
        return
    if not isinstance(strategy, str):
        wrong_type("strategy", "'one_at_a_time', 'grid' or a sampler of Optuna", strategy)
    check_choice("strategy", strategy, ("one_at_a_time", "grid"), also="a sampler of Optuna")
    if n_trials is not None:
        raise ValueError(f"Expected `n_trials` with a sampler of Optuna only, but `strategy` is {strategy!r}.")


def check_folder(logdir: Any) -> str:
    """A folder as a text."""
    if not isinstance(logdir, (str, PathLike)):
        wrong_type("logdir", "a path, or None", logdir)
    folder = fspath(logdir)
    return folder if "://" in folder else str(Path(folder).absolute())  # workers may have another working directory


def check_finders(retune: Any, space: Space) -> tuple[Any, ...]:
    """The finders that rehearse in each setting."""
    from lightning_hp.callbacks import BatchSizeScaler, LRFinder

    if isinstance(retune, bool):
        finders: tuple[Any, ...] = (BatchSizeScaler(), LRFinder()) if retune else ()
    else:
        finders = tuple(retune) if isinstance(retune, (list, tuple)) else (retune,)
        if not all(isinstance(finder, (BatchSizeScaler, LRFinder)) for finder in finders):
            wrong_type("retune", "True, False, or BatchSizeScaler and LRFinder objects", retune)
    refuse_searched(finders, space, "`retune`")
    return finders
