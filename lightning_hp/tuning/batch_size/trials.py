"""Try batch sizes on the real training: does it fit, how fast is it.

The object between the maths (`functional/batch_*.py`, which say what to try next and what the numbers mean) and the
glue (`callbacks/batch_size_scaler.py`, which knows when to run it and what to do with the answer).
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from lightning_hp.functional.batch_size.memory import predict_batch_size, predict_peak
from lightning_hp.hyperparameters import BatchSize
from lightning_hp.memory import MemoryMeter, Peak, attempt
from lightning_hp.rehearsal import EvaluationRehearsal, Rehearsal
from lightning_hp.results import BatchTrial
from lightning_hp.trainer import (
    apart,
    batch_size_of,
    can_step_apart,
    forms_its_batches,
    misconfiguration,
    reduce_over_ranks,
)

#: Peak memory is convex in the batch: a prediction from the last two points was up to 1.10 times too low on measured
#: networks. Where running out cannot be survived, what is expected has to stay this far below the budget.
CAREFUL = 0.8

# Steps that take no time to speak of are timed for so many seconds, or so many times.
_SECONDS, _STEPS = 0.05, 10

# With gradients of an earlier batch in memory, a third batch takes what the second one took.
_ACCUMULATION = 2


class BatchTrials:
    """Runs sizes in a rehearsal and remembers what they took.

    On several processes each steps by itself, so that one may run out of memory while the others do not, and then all
    agree: a size fits if it fits everywhere. Where a step is a joint one (sharded weights, synchronised batch norm) no
    process may fail, and only sizes are run that are expected to stay well within the budget.

    Args:
        rehearsal: An open rehearsal: it gives the steps and takes them back.
        batch_size: Gives the loaders of each size.
        meter: Measures the memory of each trial.
        steps_per_trial: Optimizer steps at each size, >= 2: one that is not timed, since optimizers make their state in
            it, and those that are; of very fast ones some more.
        accumulate_grad_batches: Batches for one optimizer step in the training.
        on_trial: Called after each trial, for a progress bar.

    Attributes:
        trials: Every trial, in order.
        num_steps: Optimizer steps that were run.

    Raises:
        MisconfigurationException: If a trial's batches are not of the size that was asked for; if steps are joint and
            the device does not tell how much memory there is.

    """

    def __init__(
        self,
        rehearsal: Rehearsal | EvaluationRehearsal,
        batch_size: BatchSize,
        meter: MemoryMeter,
        steps_per_trial: int,
        accumulate_grad_batches: int,
        on_trial: Callable[[], None],
    ) -> None:
        self.trials: list[BatchTrial] = []
        self.num_steps = 0
        self.num_loader_builds = 0
        self.budget = meter.budget
        self._rehearsal = rehearsal
        self._batch_size = batch_size
        self._meter = meter
        self._steps = steps_per_trial
        self._accumulate = min(accumulate_grad_batches, _ACCUMULATION)
        self._on_trial = on_trial
        self._trainer: Any = rehearsal.trainer
        self._joint = not can_step_apart(self._trainer, self._trainer.lightning_module)
        # Ranks may have different devices or groups: the tightest counts for all.
        (self.room,) = reduce_over_ranks(self._trainer, [_or_infinity(self.budget.bytes)], "min")
        if self._joint and self.room == math.inf:
            raise misconfiguration(
                self._trainer,
                "Expected a device that tells how much memory there is: the processes of this strategy step together,"
                f" so none may run out. Got {self.budget.source}. Set the batch size by hand.",
            )

    def fits(self, size: int, validate: bool = False) -> bool:
        """Runs a size and says whether it fitted; one that must not be run, by what is expected of it, does not.

        Args:
            size: Samples in a batch of one process.
            validate: Also run one batch of the validation.

        """
        expected = self._expected(size)
        known = size in dict(self.peaks)  # then it is no guess, and need not be careful
        if self._must_not_fail and expected is not None and expected > (self.room if known else self._careful):
            self._remember(BatchTrial(size, False, reason=f"not run: {in_mib(expected)} expected, {self._bound()}"))
            return False
        with self._meter.measure() as peak, _saying(f"BatchSizeScaler was trying a batch size of {size}."):
            seconds, error = self._attempt(size, validate)
        self._remember(self._agree(size, seconds, error, peak))
        return self.trials[-1].fitted

    @property
    def fitted(self) -> list[int]:
        """The sizes whose last trial fitted, rising."""
        last = {trial.batch_size: trial.fitted for trial in self.trials}
        return sorted(size for size, fitted in last.items() if fitted)

    @property
    def speeds(self) -> dict[int, list[float]]:
        """Samples per second of each trial, by size, of the sizes that fitted."""
        speeds: dict[int, list[float]] = defaultdict(list)
        for trial in self.trials:
            if trial.samples_per_second is not None and trial.batch_size in self.fitted:
                speeds[trial.batch_size].append(trial.samples_per_second)
        return dict(speeds)

    @property
    def peaks(self) -> list[tuple[int, float]]:
        """Size and peak memory of each trial where it is known."""
        return [(trial.batch_size, float(trial.peak_bytes)) for trial in self.trials if trial.peak_bytes is not None]

    def predict(self) -> float | None:
        """The largest size that is expected to fit, for :func:`~lightning_hp.functional.search_batch_size`.

        Along the last two that were run, or in proportion to the only one: never too large, since memory that does not
        depend on the batch is counted as if it did.
        """
        if not 0 < self._careful < math.inf:
            return None
        peaks = dict(self.peaks)
        if len(peaks) == 1:
            ((run, peak),) = peaks.items()
            return run * self._careful / peak if peak else None
        return predict_batch_size(peaks.items(), self._careful)

    def affordable(self, wanted: int, last: int) -> int:
        """The size nearest to ``wanted`` that memory allows to try after ``last``: far only where it is sure to fit."""
        peak = dict(self.peaks).get(last)
        if peak is not None and max(wanted / last, 1.0) * peak <= self._careful:  # in proportion: never too low
            return wanted
        predicted = self.predict()
        return min(wanted, 2 * last if predicted is None else max(last + 1, min(2 * last, int(predicted))))

    @property
    def _must_not_fail(self) -> bool:
        return self._joint or self.budget.kills

    @property
    def _careful(self) -> float:
        """What a size that was not run yet may be expected to take."""
        return self.room * (CAREFUL if self._joint else 1.0)

    def _expected(self, size: int) -> float | None:
        """The peak that is expected; in proportion to the only one that is known, which is never too low for more."""
        peaks = dict(self.peaks)
        if len(peaks) == 1:
            ((run, peak),) = peaks.items()
            return peak * max(size / run, 1.0)
        return predict_peak(peaks.items(), size)

    def _attempt(self, size: int, validate: bool) -> tuple[list[float], str | None]:
        """The samples per second of each timed step, and what was said when memory ran out."""
        if self._joint:
            return self._run(size, validate), None
        speeds, error = attempt(lambda: self._run(size, False), self._trainer.strategy.root_device)
        if validate and self._everywhere(error is None):
            # Only now: its loaders are set up together, so all have to have come here.
            _, error = attempt(self._validate, self._trainer.strategy.root_device)
        return speeds or [], error

    def _run(self, size: int, validate: bool) -> list[float]:
        rehearsal = self._rehearsal
        self.num_loader_builds += 1
        rehearsal.restart(lambda: self._batch_size.loaders(size), self._accumulate)
        speeds: list[float] = []
        with self._apart():
            self._step()
            self._check_batch(size)
            timed = 0.0
            # Joint steps are counted, not timed: every process has to take the same number.
            while len(speeds) < self._steps - 1 or (not self._joint and timed < _SECONDS and len(speeds) < _STEPS):
                seconds = self._step()
                timed += seconds
                speeds.append((rehearsal.num_samples or size * self._accumulate) / seconds)
        if validate:
            self._validate()
        return speeds

    def _step(self) -> float:
        """Runs one optimizer step; returns its seconds."""
        started = time.perf_counter()
        self._rehearsal.step()
        self.num_steps += 1
        _wait_for(self._trainer.strategy.root_device)
        return max(time.perf_counter() - started, 1e-9)

    def _validate(self) -> None:
        with self._apart():
            self.num_loader_builds += self._rehearsal.validate()

    def _apart(self) -> AbstractContextManager[None]:
        return nullcontext() if self._joint else apart(self._trainer)

    def _check_batch(self, size: int) -> None:
        """The batches are as large as they were meant to be: by the loader's word, and by the first of them."""
        first = self._rehearsal.loaders[0]
        wanted = round(size * self._batch_size.ratio)
        told, got = batch_size_of(first), self._rehearsal.first_batch
        if told is not None and abs(told - wanted) > 1:
            got = told
        elif forms_its_batches(first) or got is None or got == (told or wanted):
            return
        raise misconfiguration(
            self._trainer,
            f"Expected batches of {told or wanted} samples from the loaders at batch size {size}, got one of {got}."
            " Build them with the batch size of the model or the datamodule, and no limit of their own; a batch sampler"
            " of your own has to read its `batch_size` anew. For a stream that ends before, set `max_val`.",
        )

    def _agree(self, size: int, speeds: list[float], error: str | None, peak: Peak) -> BatchTrial:
        """One verdict for all processes: the slowest, the fullest, the first that failed."""
        ran = self._everywhere(error is None)
        (highest,) = reduce_over_ranks(self._trainer, [-1.0 if peak.bytes is None else float(peak.bytes)], "max")
        (retries,) = reduce_over_ranks(self._trainer, [float(peak.retries + peak.ooms)], "max")
        known = None if highest < 0 or not ran else int(highest)  # a trial that failed stopped before its peak
        if not ran:
            return BatchTrial(size, False, reason=error or "another process ran out of memory")
        if retries or highest > self.room:
            over = "the allocator had no room left" if retries else f"{in_mib(highest)} taken, {self._bound()}"
            return BatchTrial(size, False, peak_bytes=known, reason=over)
        speed = sorted(speeds)[len(speeds) // 2]
        (total,) = reduce_over_ranks(self._trainer, [speed], "min")
        return BatchTrial(size, True, total * self._trainer.world_size, known)

    def _everywhere(self, holds: bool) -> bool:
        return bool(reduce_over_ranks(self._trainer, [float(holds)], "min")[0])

    def _bound(self) -> str:
        return f"{in_mib(self.room)} is what {self.budget.source} allows"

    def _remember(self, trial: BatchTrial) -> None:
        self.trials.append(trial)
        self._on_trial()


@contextmanager
def _saying(note: str) -> Iterator[None]:
    """An error that passes carries the note, where the language knows notes."""
    try:
        yield
    except Exception as error:
        if hasattr(error, "add_note"):
            error.add_note(note)
        raise


def _or_infinity(number: float | None) -> float:
    return math.inf if number is None else float(number)


def in_mib(size: float) -> str:
    """Bytes in words."""
    mib = size / 2**20
    return f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.2g} MiB"


def _wait_for(device: torch.device) -> None:
    """A device that works on its own has to finish before a clock tells anything."""
    if device.type not in ("cpu", "meta"):
        torch.get_device_module(device).synchronize()
