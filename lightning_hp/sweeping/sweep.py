"""The article's loop as one call: values of subjects, trained, scored, recorded, compared (`carry_out` is the loop)."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from os import PathLike
from typing import Any, Literal

from lightning_hp.functional.checks import (
    check_bool,
    check_callable,
    check_int,
    check_options,
    wrong_type,
)
from lightning_hp.functional.sweep.labels import key_of
from lightning_hp.results.sweep import SweepResult
from lightning_hp.sweeping.arguments import check_finders, check_folder, check_seeds, check_strategy, check_words
from lightning_hp.sweeping.built import call_build
from lightning_hp.sweeping.carry_out import Plan, carry_out, continue_record, probe_arguments
from lightning_hp.sweeping.executors import WorkerProcesses
from lightning_hp.sweeping.experiment import code_of, constants_among, data_of
from lightning_hp.sweeping.extras import require
from lightning_hp.sweeping.progress import sweep_progress
from lightning_hp.sweeping.record import Record
from lightning_hp.sweeping.refusals import (
    refuse_built,
    refuse_searched,
    refuse_several_devices,
    refuse_unknown,
    refuse_unpicklable,
    refuse_unread,
)
from lightning_hp.sweeping.runner import Runner
from lightning_hp.sweeping.scaled_rate import scaled_rate
from lightning_hp.sweeping.space import Space
from lightning_hp.sweeping.storage import in_memory, open_storage, storage_address
from lightning_hp.sweeping.training import Job, callbacks_of, seeded


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
    scale_lr: Literal["linear", "sqrt"] | None = None,
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
        n_trials: Number of settings that a sampler chooses; fewer if it proposes the same ones again and again.
        refine: After that, this many further settings between the neighbours of the best values, chosen by a sampler
            that knows all trainings: by ratio where a list is geometric, by difference elsewhere; names of one subject
            move together; subjects without numbers may take any of their values. Settings that are clearly worse with
            the first seeds are not trained with the others.
        seeds: Number of trainings per setting, with the seeds 0, 1, ..., or the seeds themselves. The same seeds for
            every setting, so that differences are paired.
        reduce: Whether the ``"last"`` or the ``"best"`` value of the metric in a training is its score.
        trainer: Arguments of the Trainer. Callbacks are copied for each training. By default there are no checkpoints,
            no progress bar, no model summary and no validation before the training.
        scale_lr: ``"linear"`` (SGD) or ``"sqrt"`` (Adam and its variants): the ``lr`` of settings is that for the batch
            size of the start, and ``build`` gets it scaled to the ``batch_size`` of the settings, whatever the
            accumulation is. Both have to be in ``space``, the rate as ``lr`` or ``learning_rate``.
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
    finders = check_finders(retune, subjects)
    rate = scaled_rate(scale_lr, subjects)
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
        refuse_unpicklable({"build": build, "space": subjects, "trainer": arguments, "retune": finders})
    with seeded(all_seeds[0]):
        built, read = call_build(build, subjects.start)
    refuse_unread(subjects, read)
    refuse_built(built, arguments, monitor)
    refuse_unknown(built, arguments)
    refuse_searched(callbacks_of(arguments, built), subjects, "the callbacks of the Trainer")
    if workers > 1 and executor is None:
        refuse_several_devices({**arguments, **built.trainer}.get("devices"))
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
        "scale_lr": None if rate is None else [rate.rule, rate.base],
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
            rate=rate,
        )
        plan = Plan(strategy, order, n_trials, refine, Plan.batch_of(workers, all_seeds))
        return carry_out(runner, subjects, start, options, plan)


def _stated(value: Any) -> Any:
    """Arguments as text for the comparison of experiments; of an object its class."""
    if isinstance(value, Mapping):
        return {str(name): _stated(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_stated(entry) for entry in value]
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    return {type(value).__qualname__: constants_among(getattr(value, "__dict__", {}))}


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
