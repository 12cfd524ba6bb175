"""Lets several programs take turns, a few steps each, so that their speed can be compared on a busy machine.

Each program runs in a process of its own, as it would without the others, but only the one that holds the baton runs.
A moment in which the machine is slow then hits all of them alike. The clock counts a program's own processor time:
waiting for the baton costs nothing.
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

_TURNS = multiprocessing.get_context("fork")


class Relay:
    """Runs programs in turns.

    Args:
        programs: A program for each name. It calls ``relay.tick(name)`` at the same point of each of its steps.
        ticks_a_turn: Ticks until the baton is handed on.

    Attributes:
        turns: For each name the mean time of a step in each of its turns, in seconds. The step during which the baton
            was handed on is left out.
        rest: For each name the processor time outside its steps: before the first tick, after the last.

    """

    def __init__(self, programs: Mapping[str, Callable[[Relay], None]], ticks_a_turn: int) -> None:
        self._programs = programs
        self._ticks_a_turn = ticks_a_turn
        self._names = list(programs)
        self._batons = [_TURNS.Semaphore(0) for _ in programs]
        self._is_running = _TURNS.Array("b", [True] * len(programs))
        self._ticks: list[float] = []
        self.turns: dict[str, list[float]] = {name: [] for name in programs}
        self.rest: dict[str, float] = {}

    def run(self) -> None:
        """Runs all programs to their end; raises ``RuntimeError`` with what one of them raised."""
        pipes = [_TURNS.Pipe(duplex=False) for _ in self._names]
        processes = [
            _TURNS.Process(target=self._run_one, args=(name, end))
            for name, (_, end) in zip(self._names, pipes, strict=True)
        ]
        try:
            for process, (_, end) in zip(processes, pipes, strict=True):
                process.start()
                end.close()  # a process that is killed is then the end of its pipe
            self._batons[0].release()
            for name, (answers, _) in zip(self._names, pipes, strict=True):
                self.turns[name], self.rest[name], error = answers.recv()
                if error:
                    raise RuntimeError(error)
        finally:
            for process in processes:
                process.kill()
                process.join()

    def tick(self, name: str) -> None:
        """Notes the time; now and then waits until the others had their turn."""
        self._ticks.append(time.process_time())
        if len(self._ticks) % self._ticks_a_turn == 0:
            steps = [later - earlier for earlier, later in pairwise(self._ticks[-self._ticks_a_turn :])]
            self.turns[name].append(sum(steps) / len(steps))
            self._hand_on(name)
            self._wait(name)

    def _run_one(self, name: str, answers: Connection) -> None:
        _stay_on_one_core()
        self._wait(name)
        start, error = time.process_time(), ""
        try:
            self._programs[name](self)
        except BaseException:  # noqa: BLE001 - raised again by run, in the first process
            error = traceback.format_exc()
        between = self._ticks[-1] - self._ticks[0] if self._ticks else 0.0
        answers.send((self.turns[name], time.process_time() - start - between, error))
        self._is_running[self._names.index(name)] = False
        self._hand_on(name)

    def _wait(self, name: str) -> None:
        self._batons[self._names.index(name)].acquire()

    def _hand_on(self, name: str) -> None:
        """To the next one that has not ended: perhaps to itself."""
        position = self._names.index(name)
        others = [(position + step) % len(self._names) for step in range(1, len(self._names) + 1)]
        after = next((other for other in others if self._is_running[other]), None)
        if after is not None:
            self._batons[after].release()


def run_rounds(
    programs: Mapping[str, Callable[[Relay], None]], ticks_a_turn: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Runs programs several rounds without their output; who starts turns with the rounds.

    Returns:
        All turns of each program, and its rest in each round, as :class:`Relay` has them. The first round, which warms
        up the machine's caches, and the first turn of each round, in which memory is allocated, are left out.

    """
    names = list(programs)
    turns: dict[str, list[float]] = {name: [] for name in names}
    rest: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        first = number % len(names)
        relay = Relay({name: programs[name] for name in names[first:] + names[:first]}, ticks_a_turn)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            relay.run()
        for name in names if number else ():
            turns[name] += relay.turns[name][1:]
            rest[name].append(relay.rest[name])
    return turns, rest


def median_ratio(turns: Sequence[float], beside: Sequence[float]) -> tuple[float, float, float]:
    """The median of the ratios of turns to those beside them, and the ends of its 95% interval."""
    ratios = sorted(one / other for one, other in zip(turns, beside, strict=True))
    # Order statistics: the median of what was sampled lies between these two in 95% of cases.
    margin = 0.98 * math.sqrt(len(ratios))
    low, high = math.floor(len(ratios) / 2 - margin), math.ceil(len(ratios) / 2 + margin)
    return statistics.median(ratios), ratios[max(low, 0)], ratios[min(high, len(ratios) - 1)]


def _stay_on_one_core() -> None:
    """A move would empty the caches. All share the core, since only one runs."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
