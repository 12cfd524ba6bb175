"""Tries batch sizes on the real training: does a size fit, and how fast is it.

From a size to the batches of a step: ``fits(size)`` -> ``Rehearsal.restart(build)`` restores everything and calls
``build``, which is ``BatchSize.loaders(size)``: it writes the size where it is kept and returns the loaders -> the
stand-in loop prepares them and draws the batches -> ``VerifiedBatches`` compares the size of the first one.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning_hp.functional.batch_size.memory import MIB, Point, predict_batch_size
from lightning_hp.functional.batch_size.safe_growth import largest_peak, safe_batch_size, smallest_peak
from lightning_hp.hyperparameters import BatchSize
from lightning_hp.memory import MemoryMeter, Peak, attempt, synchronize
from lightning_hp.rehearsal import EvaluationRehearsal, Rehearsal
from lightning_hp.results import BatchTrial
from lightning_hp.trainer import (
    independent_ranks,
    misconfiguration,
    ranks_can_be_independent,
    reduce_over_ranks,
)
from lightning_hp.tuning.batch_size.verified import VerifiedBatches
from lightning_hp.tuning.notes import with_note

#: Where processes wait for each other in a step, what a size is expected to take stays below this share of the budget:
#: the budget of an accelerator ends where its memory ends.
PREDICTION_SHARE = 0.8

#: From this share of the budget on a trial is thorough: the batch of a later step, or the validation, may take several
#: times what the first steps took.
THOROUGH_SHARE = 0.25

# A thorough trial is expected to take at most this multiple of the largest before it, or this share of the budget:
# further away, what small trials take besides the batch would decide.
_MAX_GROWTH, _SMALL_SHARE = 3.0, 1 / 16

# Steps of a thorough trial at least.
_THOROUGH_STEPS = 6

#: From this share of a limit that raises an error the allocator keeps no memory of earlier trials, which would be
#: missing for later ones.
_ISOLATED_SHARE = 1 / 32

#: A training that takes at most this share of the limit does not need that.
_FAR_SHARE = 0.5

# Very short steps are repeated until they took this many seconds together, this many times at most.
_MIN_SECONDS, _MAX_STEPS = 0.05, 10

# A third accumulated batch takes no more memory than the second, which already has gradients beside it.
_MAX_ACCUMULATED = 2


class BatchTrials:
    """Runs batch sizes in a rehearsal and records their memory and throughput.

    With several processes each one steps without communication, so that one may run out of memory while the others do
    not; afterwards they agree: a size fits if it fits on all of them. Where a step has to communicate (sharded weights,
    synchronized batch norm) no process may fail, and only sizes are run whose predicted peak is well below the budget.

    Where exceeding the budget ends the process, a size is run only if smaller ones show that it will fit; if they are
    too small to show it, sizes between are run first. From a quarter of the budget on each trial is thorough: it runs
    more steps, and a batch of the validation.

    Args:
        rehearsal: An open rehearsal.
        batch_size: Builds the loaders of each size.
        meter: Measures the memory of each trial.
        steps_per_trial: Optimizer steps at each size, >= 2. The first is not timed, since optimizers create their state
            in it. Very short steps are repeated more often.
        accumulate_grad_batches: Batches for one optimizer step in the training.
        on_trial: Called after each trial, for a progress bar.
        max_batches: From a batch size to the number of batches after which a pass over the data ends; ``None``: as in
            the training.

    Attributes:
        trials: Every trial, in order.
        num_steps: Optimizer steps that were run.
        num_loader_builds: How often loaders were built.
        budget: What bounds the memory.
        allowed_bytes: The memory that a trial may take on the process with the least; ``math.inf`` if not known.

    Raises:
        MisconfigurationException: If the batches of a trial do not have its size; if steps communicate and the
            device does not report how much memory it has.

    """

    def __init__(
        self,
        rehearsal: Rehearsal | EvaluationRehearsal,
        batch_size: BatchSize,
        meter: MemoryMeter,
        steps_per_trial: int,
        accumulate_grad_batches: int,
        on_trial: Callable[[], None],
        max_batches: Callable[[int], int | None] = lambda size: None,
    ) -> None:
        self.trials: list[BatchTrial] = []
        self.num_steps = 0
        self.num_loader_builds = 0
        self.budget = meter.budget
        self._rehearsal = rehearsal
        self._batch_size = batch_size
        self._meter = meter
        self._steps = steps_per_trial
        self._accumulate = min(accumulate_grad_batches, _MAX_ACCUMULATED)
        self._on_trial = on_trial
        self._max_batches = max_batches
        self._trainer: Any = rehearsal.trainer
        self._limit_train_batches = self._trainer.limit_train_batches
        self._verified = VerifiedBatches(rehearsal.loaders[0], batch_size)
        self._communicates = not ranks_can_be_independent(self._trainer, self._trainer.lightning_module)
        # Processes may have different devices or control groups: the smallest budget counts for all.
        (self.allowed_bytes,) = reduce_over_ranks(self._trainer, [_or_infinity(self.budget.bytes)], "min")
        self._kills = bool(reduce_over_ranks(self._trainer, [float(self.budget.kills)], "max")[0])
        self._points: list[Point] = []  # peaks that compare with those of the next trial
        self._is_isolated = False
        if self._communicates and self.allowed_bytes == math.inf:
            raise misconfiguration(
                self._trainer,
                f"Expected a device that reports how much memory it has, but got {self.budget.source}: the processes of"
                " this strategy communicate in each step, so none may run out. Set the batch size by hand.",
            )

    def fits(self, size: int, validate: bool = False) -> bool:
        """Runs a size and returns whether it fitted. A size that must not fail and is expected to is not run.

        Args:
            size: Samples in a batch of one process.
            validate: Whether one batch of the validation is run too.

        Returns:
            Whether it fitted, on all processes.

        Raises:
            MisconfigurationException: If the batches do not have this size.

        """
        refusal = self._approach(size)
        trial = self._run_trial(size, validate) if refusal is None else BatchTrial(size, False, reason=refusal)
        self.trials.append(trial)
        self._on_trial()
        return trial.fitted

    @property
    def fitted(self) -> list[int]:
        """The sizes whose last trial fitted, in ascending order."""
        last = {trial.batch_size: trial.fitted for trial in self.trials}
        return sorted(size for size, fitted in last.items() if fitted)

    @property
    def speeds(self) -> dict[int, list[float]]:
        """Samples per second of each trial of the sizes that fitted, by size."""
        speeds: dict[int, list[float]] = defaultdict(list)
        for trial in self.trials:
            if trial.samples_per_second is not None and trial.batch_size in self.fitted:
                speeds[trial.batch_size].append(trial.samples_per_second)
        return dict(speeds)

    @property
    def peaks(self) -> list[Point]:
        """Size and peak memory in bytes of each trial whose peak is known."""
        return [(trial.batch_size, float(trial.peak_bytes)) for trial in self.trials if trial.peak_bytes is not None]

    def predict(self) -> float | None:
        """The largest size that is expected to fit, for :func:`~lightning_hp.functional.search_batch_size`.

        Where a size must not fail, it is the largest that is not expected to exceed the budget.
        """
        budget = self._largest_predicted_peak
        if not 0 < budget < math.inf:
            return None
        return (
            safe_batch_size(self._points, budget) if self._must_not_fail else predict_batch_size(self._points, budget)
        )

    def affordable(self, wanted: int, last: int) -> int:
        """The size nearest to ``wanted`` that memory allows to try after ``last``; a long way only if it will fit."""
        if wanted <= last:
            return wanted
        if self._must_not_fail:
            predicted = self.predict()
            return min(wanted, 2 * last if predicted is None else max(last + 1, int(predicted)))
        peak = dict(self._points).get(last)
        if peak is not None and wanted / last * peak <= self._largest_predicted_peak:
            return wanted
        predicted = self.predict()
        return min(wanted, 2 * last if predicted is None else max(last + 1, min(2 * last, int(predicted))))

    def finish(self, size: int | None) -> None:
        """Ends the search: where the size that was chosen is far from the limit, the allocator is as fast as before."""
        if self._is_isolated and dict(self._points).get(size or 0, math.inf) <= _FAR_SHARE * self.allowed_bytes:
            self._meter.end_isolation()

    @property
    def _must_not_fail(self) -> bool:
        return self._communicates or self._kills

    @property
    def _largest_predicted_peak(self) -> float:
        """The largest predicted peak of a size that may be run."""
        return self.allowed_bytes * (PREDICTION_SHARE if self._communicates else 1.0)

    @property
    def _next_limit(self) -> float:
        """The largest predicted peak of the trial after those that were run."""
        limit = self._largest_predicted_peak
        if not self._kills:
            return limit
        if not self._is_isolated:
            return THOROUGH_SHARE * limit
        largest = max((peak for _, peak in self._points), default=math.inf)
        return min(limit, max(_MAX_GROWTH * largest, _SMALL_SHARE * limit))

    def _approach(self, size: int) -> str | None:
        """Makes it known whether a size may be run, by running smaller ones; returns the reason if it may not."""
        while self._points:
            expected = smallest_peak(self._points, size) or 0.0
            if not self._is_isolated and expected > self.allowed_bytes * self._isolated_share:
                self._isolate(size)
                continue
            if not self._must_not_fail:
                return None
            if size in dict(self._points):  # its peak is known, not predicted
                return self._refusal(expected) if expected > self.allowed_bytes else None
            between = safe_batch_size(self._points, self._next_limit)
            if between is None or between >= size or (largest_peak(self._points, size) or 0.0) <= self._next_limit:
                return None
            if between > max(self._points)[0] and not self._is_over(expected):
                if self._run_trial(between, False).peak_bytes is None:
                    return self._refusal(expected)
            elif self._is_isolated or not self._kills:
                return self._refusal(expected)
            else:
                self._isolate(size)
        return None

    def _is_over(self, expected: float) -> bool:
        """Whether at least two sizes show that another does not fit."""
        return expected > self._largest_predicted_peak and len(self._points) > 1

    def _isolate(self, size: int) -> None:
        """From here on no trial depends on earlier ones, and where it matters it is thorough; other peaks are lower."""
        self._is_isolated = True
        last, _ = max(self._points)
        if self._meter.isolate() or self._kills:
            self._points.clear()
            if self._must_not_fail and last < size:
                self._run_trial(last, False)

    def _refusal(self, expected: float) -> str:
        return f"not run: {in_mib(expected)} expected, {self._bound()}"

    @property
    def _isolated_share(self) -> float:
        return THOROUGH_SHARE if self._kills else _ISOLATED_SHARE

    @property
    def _is_thorough(self) -> bool:
        return self._is_isolated and self._kills

    def _run_trial(self, size: int, validate: bool) -> BatchTrial:
        with self._meter.measure() as peak, with_note(f"BatchSizeScaler was trying a batch size of {size}."):
            seconds, error = self._attempt(size, validate or self._is_thorough)
        trial = self._agree(size, seconds, error, peak)
        if trial.peak_bytes is not None:
            self._points.append((size, float(trial.peak_bytes)))
        return trial

    def _attempt(self, size: int, validate: bool) -> tuple[list[float], str | None]:
        """The samples per second of each timed step, and the error message if memory ran out."""
        if self._communicates:
            return self._run(size, validate), None
        smaller_ran = any(fitted < size for fitted in self.fitted)
        speeds, error = attempt(lambda: self._run(size, False), self._trainer.strategy.root_device, smaller_ran)
        if validate and self._everywhere(error is None):
            # Its loaders are set up by a collective call, so all processes have to get here.
            _, error = attempt(self._validate, self._trainer.strategy.root_device, smaller_ran)
        return speeds or [], error

    def _run(self, size: int, validate: bool) -> list[float]:
        rehearsal = self._rehearsal
        self.num_loader_builds += 1
        rehearsal.restart(lambda: self._loaders(size), self._accumulate)
        speeds: list[float] = []
        with self._without_communication():
            self._step()
            counted = self._check_batch(size)
            timed = 0.0
            # Steps that communicate are counted, not timed: every process has to run the same number.
            more = 0 if self._communicates else _MAX_STEPS
            fewest = max(self._steps, _THOROUGH_STEPS) if self._is_thorough else self._steps
            while len(speeds) < fewest - 1 or (timed < _MIN_SECONDS and len(speeds) < more):
                seconds = self._step()
                timed += seconds
                samples = rehearsal.num_samples if counted else None
                speeds.append((samples or size * self._accumulate) / seconds)
        if validate:
            self._validate()
        return speeds

    def _loaders(self, size: int) -> Any:
        most = self._max_batches(size)  # the rehearsal restores the limit
        self._trainer.limit_train_batches = self._limit_train_batches if most is None else most
        return self._batch_size.loaders(size)

    def _step(self) -> float:
        """Runs one optimizer step; returns its seconds."""
        started = time.perf_counter()
        self._rehearsal.step()
        self.num_steps += 1
        synchronize(self._trainer.strategy.root_device)
        return max(time.perf_counter() - started, 1e-9)

    def _validate(self) -> None:
        with self._without_communication():
            self.num_loader_builds += self._rehearsal.validate()

    def _without_communication(self) -> AbstractContextManager[None]:
        return nullcontext() if self._communicates else independent_ranks(self._trainer)

    def _check_batch(self, size: int) -> bool:
        """Raises if the batches do not have the size of the trial; returns whether their samples can be counted."""
        rehearsal = self._rehearsal
        found = self._verified.check(size, rehearsal.loaders[0], rehearsal.first_batch, rehearsal.pass_is_over)
        if found.problem is not None:
            raise misconfiguration(self._trainer, found.problem)
        return found.counted

    def _agree(self, size: int, speeds: list[float], error: str | None, peak: Peak) -> BatchTrial:
        """One result for all processes: the lowest speed, the highest peak, and a failure if any failed."""
        ran = self._everywhere(error is None)
        (highest,) = reduce_over_ranks(self._trainer, [-1.0 if peak.bytes is None else float(peak.bytes)], "max")
        (retries,) = reduce_over_ranks(self._trainer, [float(peak.retries + peak.ooms)], "max")
        known = None if highest < 0 or not ran else int(highest)  # a trial that failed ended before its peak
        if not ran:
            return BatchTrial(size, False, reason=error or "another process ran out of memory")
        if retries or highest > self.allowed_bytes:
            over = "the allocator ran out of memory" if retries else f"{in_mib(highest)} taken, {self._bound()}"
            return BatchTrial(size, False, peak_bytes=known, reason=over)
        speed = sorted(speeds)[len(speeds) // 2]
        (total,) = reduce_over_ranks(self._trainer, [speed], "min")
        return BatchTrial(size, True, total * self._trainer.world_size, known)

    def _everywhere(self, holds: bool) -> bool:
        return bool(reduce_over_ranks(self._trainer, [float(holds)], "min")[0])

    def _bound(self) -> str:
        return f"{in_mib(self.allowed_bytes)} is what {self.budget.source} allows"


def _or_infinity(number: float | None) -> float:
    return math.inf if number is None else float(number)


def in_mib(size: float) -> str:
    """A number of bytes as text in MiB."""
    mib = size / MIB
    return f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.2g} MiB"
