"""The article's loop as one call: values of subjects, trained, scored, recorded, compared.

for each round of the strategy:
for each of its settings and each seed:
skip it if it was trained before
build model, data and Trainer; fit; write the score to the study
the strategy looks at the mean scores and asks for the next round
compare the settings in pairs of the same seed; recommend the cheapest that is within one standard error of the best
"""

from __future__ import annotations

import gc
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

from lightning_hp.functional.checks import (
    check_bool,
    check_callable,
    check_choice,
    check_int,
    check_iterable,
    check_options,
    check_str,
    is_number,
    wrong_type,
    wrong_value,
)
from lightning_hp.functional.sweep.labels import key_of
from lightning_hp.reporting import log_columns
from lightning_hp.results.sweep import SweepResult
from lightning_hp.sweeping.built import Built, call_build
from lightning_hp.sweeping.executors import WorkerProcesses
from lightning_hp.sweeping.experiment import code_of, data_of, plain_values, refuse_another
from lightning_hp.sweeping.extras import require
from lightning_hp.sweeping.progress import sweep_progress
from lightning_hp.sweeping.record import Record
from lightning_hp.sweeping.runner import Runner, SweepError
from lightning_hp.sweeping.sampling import REFINE, SAMPLER, refining_sampler, sampled
from lightning_hp.sweeping.sampling import refine as refine_plan
from lightning_hp.sweeping.space import Space
from lightning_hp.sweeping.storage import in_memory, open_storage, storage_address
from lightning_hp.sweeping.stored import NOTE, note_of, result_of
from lightning_hp.sweeping.strategies import grid, measured_order, one_at_a_time
from lightning_hp.sweeping.summary import log_summary
from lightning_hp.sweeping.training import Job, callbacks_of, seeded

_log = logging.getLogger(__name__)


def sweep(
    build: Callable[[dict[str, Any]], Any],
    space: Mapping[Any, Sequence[Any]],
    *,
    monitor: str,
    mode: Literal["max", "min"],
    strategy: Any = "one_at_a_time",
    order: Literal["given", "measured"] = "given",
    start: Mapping[str, Any] | None = None,
    n_trials: int | None = None,
    refine: int = 0,
    seeds: int | Sequence[int] = 1,
    reduce: Literal["last", "best"] = "last",
    trainer: Mapping[str, Any] | None = None,
    retune: Any = False,
    pruner: Any = None,
    storage: Any = None,
    logdir: str | PathLike[str] | None = "runs/sweep",
    name: str = "sweep",
    workers: int = 1,
    executor: Any = None,
    cost: Literal["parameters", "latency", "time"] = "parameters",
    on_error: Literal["record", "raise"] = "record",
    enable_progress_bar: bool = True,
) -> SweepResult:
    """Trains models with different settings, records every training, and compares the settings.

    Args:
        build: Called for each training, ``build(settings)``, with a dict of one value per name. Returns
            ``(model, data)`` or ``(model, data, trainer arguments)``; data is a datamodule, a training loader, or a
            pair of a training loader and a validation loader. Everything is seeded before the call.
        space: The subjects, the most important first, and the values of each. A tuple of names is one subject whose
            names move together: ``{("batch_size", "lr"): [(32, 0.05), (128, 0.2)]}``.
        monitor: The metric that the module logs, in validation or in training.
        mode: ``"max"`` if a higher value is better, ``"min"`` if a lower one is.
        strategy: ``"one_at_a_time"``: one subject after the other; each keeps its best value while the next are swept.
            ``"grid"``: all combinations. Or a sampler of Optuna, which chooses ``n_trials`` settings.
        order: ``"given"``: subjects are swept in the order of ``space``. ``"measured"``: in the order of their impact.
            It is measured with the first seed, a fifth of the epochs, and the first, the middle and the last value of
            each subject: at most twice as many short trainings as subjects, and one.
        start: Values of names while other subjects are swept, in the list or not; the first of the list for all others.
        n_trials: Number of settings that a sampler chooses.
        refine: After that, this many further settings between the neighbours of the best values, chosen by a sampler
            that knows all trainings: by ratio where a list is geometric, by difference elsewhere; names of one subject
            move together; subjects without numbers may take any of their values. Settings that are clearly worse with
            the first seeds are not trained with the others.
        seeds: Number of trainings per setting, with the seeds 0, 1, ..., or the seeds themselves. The same seeds for
            every setting, so that differences are paired.
        reduce: Whether the ``"last"`` or the ``"best"`` value of the metric in a training is its score.
        trainer: Arguments of the Trainer. Callbacks are copied for each training. By default there are no checkpoints,
            no progress bar, no model summary and no validation before the training.
        retune: ``True``: BatchSizeScaler and LRFinder rehearse in each setting. Or the finders to use. They search with
            the first seed; the other seeds use what was found.
        pruner: A pruner of Optuna: it ends trainings that are poor, after any epoch.
        storage: Where trainings are recorded: a path (a journal if it ends in ``.journal`` or ``.log``, else SQLite),
            the URL of a database, or a storage of Optuna. ``None``: a file in ``logdir``, or in memory without one. A
            sweep whose storage exists is continued: trainings that are in it are not made again, except those that
            failed.
        logdir: Folder for TensorBoard: a folder per training, and a summary. ``None`` writes no logs.
        name: Name of the study in the storage.
        workers: Number of trainings at once, in processes of this machine; each has an accelerator of its own, if there
            are any. Needs ``pip install 'lightning-hp[workers]'``.
        executor: Where to train instead: any object with the ``submit`` of ``concurrent.futures.Executor``, as those of
            ``dask.distributed`` and submitit, or a :class:`RayExecutor`.
        cost: What makes a setting cheaper, for the recommendation: ``"parameters"``, the ``"latency"`` of one sample,
            or the ``"time"`` of the training.
        on_error: ``"record"``: a training that fails is recorded and the sweep goes on. ``"raise"``: the sweep stops.
        enable_progress_bar: Whether a terminal shows a progress bar over the trainings.

    Returns:
        All trainings, the best and the recommended settings, and the effect of each subject.

    Raises:
        TypeError: If an argument, or what ``build`` returns, is of the wrong type.
        ValueError: If a value is wrong, ``build`` does not read a name of ``space``, or the storage belongs to another
            experiment. All of it before the first training.
        SweepError: If no training can be scored, because ``monitor`` is not logged; or a training failed and
            ``on_error`` is ``"raise"``; or all failed.
        ModuleNotFoundError: If Optuna or SciPy is missing: ``pip install 'lightning-hp[sweep]'``.

    Note:
        Costs 5 to 30 ms per training beyond the training itself, and one call of ``build`` at the start. The random
        state of this process is restored after each training. Strategies that start the script again, as ``"ddp"``
        does, are refused; ``lightning-hp sweep`` runs each training as a process of its own.

    Example:
        >>> def build(settings):
        ...     model = Classifier(settings["hidden"], lr=settings["lr"])
        ...     return model, (train_loader, val_loader)
        >>> result = sweep(  # doctest: +SKIP
        ...     build,
        ...     {"lr": [0.003, 0.01, 0.03], "hidden": [64, 128, 256]},
        ...     monitor="val_accuracy",
        ...     mode="max",
        ...     trainer={"max_epochs": 5},
        ...     seeds=3,
        ... )
        >>> result.recommended  # doctest: +SKIP
        {'lr': 0.01, 'hidden': 128}

    """
    require("optuna", "sweep")
    check_callable("build", build, what="a function of settings")
    subjects = Space(space, start)
    all_seeds = check_seeds(seeds)
    options = check_words(
        monitor=monitor, mode=mode, order=order, reduce=reduce, cost=cost, on_error=on_error, name=name
    )
    arguments = check_options("trainer", trainer, "a dict of arguments of the Trainer")
    check_strategy(strategy, n_trials)
    refine = check_int("refine", refine, 0)
    workers = check_int("workers", workers, 1)
    check_bool("enable_progress_bar", enable_progress_bar)
    finders = _finders(retune, subjects)
    folder = None if logdir is None else check_folder(logdir)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        wrong_type("executor", "an object with `submit`, as those of concurrent.futures, or None", executor)
    if pruner is not None and not callable(getattr(pruner, "prune", None)):
        wrong_type("pruner", "a pruner of Optuna, or None", pruner)
    if isinstance(executor, ThreadPoolExecutor):
        raise ValueError(
            "Expected an `executor` of processes, but got a ThreadPoolExecutor: trainings seed the random generators of"
            " their process, so threads would train one after the other. Use `workers`."
        )
    is_parallel = executor is not None or workers > 1
    if workers > 1 and executor is None:
        require("loky", "workers")
        _refuse_unpicklable({"build": build, "space": subjects, "trainer": arguments, "retune": finders})
    with seeded(all_seeds[0]):
        built, read = call_build(build, subjects.start)
    _refuse_unread(subjects, read)
    _refuse_built(built, arguments, monitor)
    _refuse_unknown(built, arguments)
    refuse_searched(callbacks_of(arguments, built), subjects, "the callbacks of the Trainer")
    address = storage_address(storage, folder, is_parallel)
    started_by = str({**arguments, **built.trainer}.get("strategy")).rpartition("_")[2]
    has_processes = is_parallel or started_by in ("spawn", "fork", "notebook")
    if pruner is not None and has_processes and in_memory(address):
        raise ValueError(
            "Expected a `storage` on disk with a `pruner` and several processes, which report to it, but got"
            f" {'None' if address is None else 'one in memory'}."
        )
    store = open_storage(address)
    record = Record(store, name, mode, subjects)
    experiment = {
        **{key: options[key] for key in ("monitor", "mode", "reduce")},
        "seeds": list(all_seeds),
        "trainer": _stated(arguments),
        "build": code_of(build),
        "data": [key_of(subjects.start), data_of(built)],
        "finders": [_stated(finder) for finder in finders],
    }
    continue_record(record, experiment, "this storage" if address is None else str(address))
    job = Job(
        build,
        monitor,
        reduce=mode if reduce == "best" else "last",
        trainer=arguments,
        finders=finders,
        latency=cost == "latency",
    )
    with ExitStack() as stack:
        stack.enter_context(_frozen_garbage())
        pool = executor
        if is_parallel and executor is None:
            pool = WorkerProcesses(workers)
            stack.callback(pool.close)
        runner = Runner(
            record=record,
            job=job,
            seeds=all_seeds,
            sign=1 if mode == "max" else -1,
            probe_trainer=probe_arguments({**arguments, **built.trainer}),
            executor=pool,
            in_flight=workers if workers > 1 else None,
            stop_on_error=on_error == "raise",
            logdir=folder,
            pruning=None if pruner is None else (address if is_parallel else store, pruner),
            progress=stack.enter_context(sweep_progress(enable_progress_bar)),
        )
        batch = max(1, -(-workers // len(all_seeds)))
        return carry_out(runner, subjects, start, options, strategy, n_trials, refine, batch)


def carry_out(
    runner: Runner,
    space: Space,
    start: Any,
    options: Mapping[str, Any],
    strategy: Any,
    n_trials: int | None,
    refine: int,
    batch: int,
) -> SweepResult:
    """Trains all that is missing, and compares.

    Args:
        runner: Trains.
        space: The subjects.
        start: The user's start.
        options: ``monitor``, ``mode``, ``order`` and ``cost``.
        strategy: As in :func:`sweep`.
        n_trials: As in :func:`sweep`.
        refine: As in :func:`sweep`.
        batch: Settings that a sampler is asked for at once.

    Raises:
        SweepError: If all trainings failed, or one and the runner stops on errors.

    """
    record = runner.record
    labels = [subject.label for subject in space.subjects]
    note = note_of(space, list(start or ()), runner.seeds, options, labels)
    record.set_note(NOTE, note)
    if runner.logdir is not None:
        log_columns(runner.logdir, {**space.start, "seed": runner.seeds[0]}, [options["monitor"]])
    stated = {name: space.start[name] for name in start or ()}  # of subjects that are new since an earlier call
    for _, training, stage, outcome in record.rows():
        if outcome.status != "failed":
            runner.note(replace(training, settings={**stated, **training.settings}), stage, outcome)
    swept = _follow(runner, space, strategy, options["order"], n_trials, refine, batch)
    if list(swept) != labels:
        record.set_note(NOTE, {**note, "order": list(swept)})
    result = result_of(record.study, space)
    if result.trials and not any(trial.status == "complete" for trial in result.trials):
        raise SweepError(f"All {len(result.trials)} trainings failed; the first one: {result.trials[0].reason}")
    for effect in result.effects.values():
        if effect.is_unused:
            _log.warning(f"All values of {effect.subject} have exactly the same scores: the training does not use it.")
    if runner.logdir is not None:
        log_summary(result, runner.logdir)
    return result


def _follow(
    runner: Runner, space: Space, strategy: Any, order: str, n_trials: int | None, refine: int, batch: int
) -> tuple[str, ...]:
    """Trains what the strategy asks for; returns the subjects in the order in which they were swept."""
    subjects = runner.follow(measured_order(space)) if order == "measured" else space.subjects
    if strategy == "one_at_a_time":
        runner.follow(one_at_a_time(space, subjects))
    elif strategy == "grid":
        runner.follow(grid(space))
    else:
        runner.follow(sampled(space, runner.settings_of(SAMPLER), strategy, n_trials or 0, batch))
    if refine:
        asked, known = runner.settings_of(REFINE), list(runner.settings.values())
        runner.follow(refine_plan(space, known, asked, runner.score, refining_sampler(), refine, batch))
    return tuple(subject.label for subject in subjects)


def continue_record(record: Record, experiment: dict[str, Any], where: str) -> None:
    """Refuses a storage of another experiment, and tidies up what an earlier call left."""
    stored = record.note("experiment")
    if stored is not None:
        if stored["data"][0] != experiment["data"][0]:  # another start: its data may differ with the settings
            experiment = {**experiment, "data": stored["data"]}
        refuse_another(stored, experiment, where)
    record.set_note("experiment", experiment)
    record.discard_stale()


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


def _finders(retune: Any, space: Space) -> tuple[Any, ...]:
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


def _refuse_unpicklable(arguments: Mapping[str, Any]) -> None:
    cloudpickle = require("cloudpickle", "workers")
    for name, value in arguments.items():
        try:
            cloudpickle.dumps(value)
        except Exception as error:  # noqa: PERF203
            raise TypeError(
                f"Expected a `{name}` that can be sent to worker processes, but it cannot be pickled:"
                f" {type(error).__name__}: {error}. Open files and connections in `build`, not outside it."
            ) from error


def _refuse_unread(space: Space, read: set[str]) -> None:
    if unread := [name for name in space.names if name not in read]:
        raise ValueError(
            f"Expected `build` to read every name of `space`, but it does not read {', '.join(map(repr, unread))}: all"
            " values of it would be the same training."
        )


def _refuse_built(built: Built, arguments: Mapping[str, Any], monitor: str) -> None:
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


def _refuse_unknown(built: Built, arguments: Mapping[str, Any]) -> None:
    """Refuses arguments that the Trainer does not have."""
    known = inspect.signature(import_module(built.package).Trainer.__init__).parameters
    if unknown := [name for name in {**arguments, **built.trainer} if name not in known]:
        raise ValueError(f"Expected arguments of the Trainer in `trainer`, but it has no {unknown[0]!r}.")


def probe_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A fifth of the epochs or steps."""
    steps = arguments.get("max_steps", -1)
    if steps > 0:
        return {"max_steps": max(1, steps // 5)}
    return {"max_epochs": max(1, (arguments.get("max_epochs") or 5) // 5)}


def _stated(value: Any) -> Any:
    """Arguments as text for the comparison of experiments; of an object its class."""
    if isinstance(value, Mapping):
        return {str(name): _stated(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_stated(entry) for entry in value]
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    return {type(value).__qualname__: plain_values(getattr(value, "__dict__", {}))}


@contextmanager
def _frozen_garbage() -> Iterator[None]:
    """What exists now is not looked at in each collection of the sweep, unless the user has frozen objects already."""
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
