"""One training of a sweep, in this process or in a worker: build, fit, read the score."""

from __future__ import annotations

import copy
import dataclasses
import gc
import logging
import math
import os
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import torch

from lightning_hp.callbacks.hparams_logger import HParamsLogger
from lightning_hp.callbacks.pruning import PruningCallback
from lightning_hp.snapshot import RandomState
from lightning_hp.sweeping.built import Built, call_build
from lightning_hp.sweeping.history import Handover, History, LatencyMeter
from lightning_hp.sweeping.optuna_messages import quiet_optuna
from lightning_hp.sweeping.outcome import Outcome
from lightning_hp.sweeping.space import Settings
from lightning_hp.sweeping.storage import open_storage

#: Arguments of the Trainer unless the user gives others. A sweep logs and scores; it keeps no checkpoints.
TRAINER_DEFAULTS: Mapping[str, Any] = {
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,  # the first training shows soon whether validation works
}


@dataclass(frozen=True)
class Job:
    """What a worker needs for one training. It can be pickled (functions of ``__main__`` by cloudpickle).

    Attributes:
        build: The user's function.
        monitor: The metric.
        settings: What ``build`` gets.
        seed: The seed of the training.
        reduce: ``"last"``, ``"max"`` or ``"min"``: which of its values is the score.
        trainer: Arguments of the Trainer.
        log_dir: Folder of the logs, or ``None``.
        finders: Finders that rehearse in the training.
        found: States of these finders after another seed of the same settings: what they found is used again.
        pruning: Address of the storage, name of the study, id of the trial, and pruner; or ``None``.
        latency: Whether the time of one sample is measured after the training.
        trial_id: Id of its trial in the storage.

    """

    build: Callable[..., Any]
    monitor: str
    settings: Settings = field(default_factory=dict)
    seed: int = 0
    reduce: str = "last"
    trainer: Mapping[str, Any] = field(default_factory=dict)
    log_dir: str | None = None
    finders: tuple[Any, ...] = ()
    found: tuple[Any, ...] = ()
    pruning: tuple[Any, str, int, Any] | None = None
    latency: bool = False
    trial_id: int = -1


#: Trainings seed the global generators, so one at a time in a process, whatever the threads of an executor are.
_ONE_AT_A_TIME = threading.RLock()


class MonitorError(RuntimeError):
    """The monitored metric was not logged, so no training of the sweep can be scored."""


def train(job: Job) -> Outcome:
    """Trains once.

    Args:
        job: What to train.

    Returns:
        The outcome. An exception of the training is in it, as one line and as a traceback.

    """
    with _ONE_AT_A_TIME:
        return _train(job)


def _train(job: Job) -> Outcome:
    started = time.monotonic()
    try:
        with seeded(job.seed), _fewer_messages():
            outcome = _Training(job).run()
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises
        outcome = Outcome(
            "failed",
            reason=str(error) if isinstance(error, MonitorError) else one_line(error),
            traceback="".join(traceback.format_exception(error))[-10_000:],
            ends_sweep=isinstance(error, MonitorError),
            log_dir=job.log_dir,
        )
    # A module and its Trainer refer to each other: only the collector frees them.
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    return dataclasses.replace(outcome, seconds=time.monotonic() - started)


def one_line(error: BaseException) -> str:
    """An exception as one line."""
    text = str(error)
    if type(error).__name__ == "ProcessRaisedException":  # of a process that the Trainer started; ends with its error
        return " ".join(text.strip().splitlines()[-1].split())[:500]
    return f"{type(error).__name__}: {' '.join(text.split())}"[:500]


class _Training:
    """A model, its Trainer and the callbacks of the sweep."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._built, _ = call_build(job.build, job.settings)
        self._finders = _copies_of(job.finders, job.found)
        self._history = History(job.monitor)
        self._latency = LatencyMeter() if job.latency else None
        self._pruning = None if job.pruning is None else _pruning_callback(*job.pruning, job.monitor)
        self._handover = Handover([(self._history, "values"), (self._latency, "latency_ms")])
        self._trainer = self._build_trainer()

    def run(self) -> Outcome:
        """Fits and scores."""
        job = self._job
        with self._handover, _interrupts():
            self._trainer.fit(self._built.model, **self._built.data)
        score = self._score()
        if not math.isfinite(score):
            return Outcome("failed", reason=f"{job.monitor} was {score}", log_dir=job.log_dir)
        return Outcome(
            status="pruned" if self._pruning is not None and self._pruning.is_pruned else "complete",
            score=score,
            parameters=sum(parameter.numel() for parameter in self._built.model.parameters()),
            latency_ms=None if self._latency is None else self._latency.latency_ms,
            used={name: value for finder in self._finders for name, value in found_by(finder).items()},
            finders=[finder.state_dict() for finder in self._finders],
            log_dir=job.log_dir,
        )

    def _build_trainer(self) -> Any:
        package = import_module(self._built.package)
        arguments = {**TRAINER_DEFAULTS, **self._job.trainer, **self._built.trainer}
        if "logger" not in arguments:
            arguments["logger"] = False if self._job.log_dir is None else _logger(package, self._job.log_dir)
        subjects = {**self._job.settings, "seed": self._job.seed}
        record = HParamsLogger(subjects, [self._job.monitor]) if self._job.log_dir is not None else None
        own = [*self._finders, self._history, self._latency, self._pruning, self._handover, record]
        given = callbacks_of(self._job.trainer, self._built)
        arguments["callbacks"] = [*copy.deepcopy(given), *(callback for callback in own if callback is not None)]
        return package.Trainer(**arguments)

    def _score(self) -> float:
        values = self._history.values
        if not values:
            logged = ", ".join(sorted(self._trainer.callback_metrics)) or "nothing"
            where = "" if self._built.has_validation else "; there is no validation data"
            raise MonitorError(f"Expected the training to log `{self._job.monitor}`, but it logs {logged}{where}.")
        return score_of(values, self._job.reduce)


def score_of(values: Sequence[float], reduce: str) -> float:
    """The ``"last"``, the largest (``"max"``) or the smallest (``"min"``) finite value of a metric in a training."""
    if reduce == "last":
        return values[-1]
    finite = list(filter(math.isfinite, values)) or values
    return max(finite) if reduce == "max" else min(finite)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Lightning ends the process after Ctrl-C; in a sweep it is the KeyboardInterrupt that it was."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


def callbacks_of(trainer: Mapping[str, Any], built: Built) -> list[Any]:
    """The user's callbacks: those for all trainings, and those of ``build``."""
    return [*_callbacks_in(trainer), *_callbacks_in(built.trainer)]


def _callbacks_in(arguments: Mapping[str, Any]) -> list[Any]:
    callbacks = arguments.get("callbacks") or []
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


def _copies_of(finders: Sequence[Any], states: Sequence[Any]) -> list[Any]:
    """Finders of this training. With the states of another one they set what was found there, without a search."""
    copies = copy.deepcopy(list(finders))
    for finder, state in zip(copies, states, strict=False):
        finder.reuse(state)
    return copies


def found_by(finder: Any) -> dict[str, float]:
    """What a finder set, by the usual names."""
    names = {"lr_used": "lr", "batch_size_used": "batch_size"}
    result = finder.result
    return {name: getattr(result, field) for field, name in names.items() if getattr(result, field, None) is not None}


def _pruning_callback(address: Any, study_name: str, trial_id: int, pruner: Any, monitor: str) -> Any:
    """The callback of a trial in a storage that this process opens."""
    import optuna

    with quiet_optuna():
        study = optuna.load_study(study_name=study_name, storage=open_storage(address), pruner=pruner)
    return PruningCallback(optuna.Trial(study, trial_id), monitor, raises=False)


def _logger(package: Any, log_dir: str) -> Any:
    loggers = import_module(f"{package.__name__}.loggers")
    parent, name = os.path.split(log_dir)
    return loggers.TensorBoardLogger(parent, name="", version=name, default_hp_metric=False)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds everything as Lightning's ``seed_everything(seed, workers=True)``; restores the user's random state."""
    device = torch.device("cuda") if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    state = RandomState(device)
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.get(name) for name in names}
    try:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - what the user's code may draw from
        torch.manual_seed(seed)
        os.environ.update(PL_GLOBAL_SEED=str(seed), PL_SEED_WORKERS="1")
        yield
    finally:
        state.restore()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _fewer_messages() -> Iterator[None]:
    """Lightning's messages about each Trainer are not shown; warnings are."""
    loggers = [
        logging.getLogger(name)
        for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logger.level, logging.WARNING))
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
