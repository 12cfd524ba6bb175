"""Runs several programs interleaved, a few steps at a time, to compare their speed on a busy machine.

Each program runs in a process of its own, as it would without the others. At any time only one of them runs, and all
use the same core, so that a slow phase of the machine affects all of them alike. Times are processor times, so waiting
for the other programs does not count.

``torch.utils.benchmark`` has no equivalent. Its ``Timer`` repeats one statement in one process and measures wall time;
it can neither interrupt a ``Trainer.fit`` in the middle nor pair measurements that are close in time, which the ratios
and their intervals need.
"""

from __future__ import annotations

import contextlib
import io
import math
import multiprocessing
import os
import statistics
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection

_CONTEXT = multiprocessing.get_context("fork")


class InterleavedRun:
    """Runs programs in turns.

    Args:
        programs: The programs by name. Each calls ``run.tick(name)`` at the same point of each of its steps.
        ticks_a_turn: Ticks in one turn, after which the next program runs.

    Attributes:
        turns: For each name the mean time of a step in each of its turns, in seconds. The step in which the turn ends
            is left out.
        rest: For each name the processor time outside its steps, before the first tick and after the last one.

    """

    def __init__(self, programs: Mapping[str, Callable[[InterleavedRun], None]], ticks_a_turn: int) -> None:
        self._programs = programs
        self._ticks_a_turn = ticks_a_turn
        self._names = list(programs)
        self._may_run = [_CONTEXT.Semaphore(0) for _ in programs]
        self._is_running = _CONTEXT.Array("b", [True] * len(programs))
        self._ticks: list[float] = []
        self.turns: dict[str, list[float]] = {name: [] for name in programs}
        self.rest: dict[str, float] = {}

    def run(self) -> None:
        """Runs all programs to their end; raises ``RuntimeError`` with the traceback of the first that fails."""
        pipes = [_CONTEXT.Pipe(duplex=False) for _ in self._names]
        processes = [
            _CONTEXT.Process(target=self._run_one, args=(name, end))
            for name, (_, end) in zip(self._names, pipes, strict=True)
        ]
        try:
            for process, (_, end) in zip(processes, pipes, strict=True):
                process.start()
                end.close()  # so that `recv` raises EOFError if the process is killed
            self._may_run[0].release()
            for name, (results, _) in zip(self._names, pipes, strict=True):
                self.turns[name], self.rest[name], error = results.recv()
                if error:
                    raise RuntimeError(error)
        finally:
            for process in processes:
                process.kill()
                process.join()

    def tick(self, name: str) -> None:
        """Records the time; at the end of a turn, waits until all others had theirs."""
        self._ticks.append(time.process_time())
        if len(self._ticks) % self._ticks_a_turn == 0:
            steps = [later - earlier for earlier, later in pairwise(self._ticks[-self._ticks_a_turn :])]
            self.turns[name].append(sum(steps) / len(steps))
            self._end_turn(name)
            self._wait(name)

    def _run_one(self, name: str, results: Connection) -> None:
        _stay_on_one_core()
        self._wait(name)
        start, error = time.process_time(), ""
        try:
            self._programs[name](self)
        except BaseException:  # noqa: BLE001 - `run` raises it again in the first process
            error = traceback.format_exc()
        between = self._ticks[-1] - self._ticks[0] if self._ticks else 0.0
        results.send((self.turns[name], time.process_time() - start - between, error))
        self._is_running[self._names.index(name)] = False
        self._end_turn(name)

    def _wait(self, name: str) -> None:
        self._may_run[self._names.index(name)].acquire()

    def _end_turn(self, name: str) -> None:
        """Lets the next program run that has not ended, which may be the same one."""
        position = self._names.index(name)
        others = [(position + step) % len(self._names) for step in range(1, len(self._names) + 1)]
        after = next((other for other in others if self._is_running[other]), None)
        if after is not None:
            self._may_run[after].release()


def run_rounds(
    programs: Mapping[str, Callable[[InterleavedRun], None]], ticks_a_turn: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Runs programs for several rounds without their output; each round starts with another program.

    Returns:
        All turns of each program, and its rest in each round, as in :class:`InterleavedRun`. The first round, which
        fills the caches of the machine, and the first turn of each round, in which memory is allocated, are left out.

    """
    names = list(programs)
    turns: dict[str, list[float]] = {name: [] for name in names}
    rest: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        first = number % len(names)
        interleaved = InterleavedRun({name: programs[name] for name in names[first:] + names[:first]}, ticks_a_turn)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            interleaved.run()
        for name in names if number else ():
            turns[name] += interleaved.turns[name][1:]
            rest[name].append(interleaved.rest[name])
    return turns, rest


def median_ratio(turns: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """The median ratio of turns to the turns of a reference next to them, and the ends of its 95% interval."""
    ratios = sorted(one / other for one, other in zip(turns, reference, strict=True))
    # The interval of a median by order statistics: these two contain it in 95% of samples.
    margin = 0.98 * math.sqrt(len(ratios))
    low, high = math.floor(len(ratios) / 2 - margin), math.ceil(len(ratios) / 2 + margin)
    return statistics.median(ratios), ratios[max(low, 0)], ratios[min(high, len(ratios) - 1)]


def _stay_on_one_core() -> None:
    """Pins the process to one core, the same for all; a move to another core would lose the contents of the caches."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
