"""Lets several programs take turns, a few steps each, so that their speed can be compared on a busy machine.

Each program runs in its own thread, but only the one that holds the baton runs. A moment in which the machine is slow
then hits all of them alike. The clock of a thread counts its own processor time: waiting for the baton costs nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise


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
        self._order = list(programs)
        self._holder = self._order[0]
        self._turn = threading.Condition()
        self._ticks: dict[str, list[float]] = {name: [] for name in programs}
        self._errors: list[BaseException] = []
        self.turns: dict[str, list[float]] = {name: [] for name in programs}
        self.rest: dict[str, float] = {}

    def run(self) -> None:
        """Runs all programs to their end; raises what one of them raised."""
        threads = [threading.Thread(target=self._run_one, args=(name,)) for name in self._order]
        with _one_core():
            for thread in threads:
                thread.start()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def tick(self, name: str) -> None:
        """Notes the time; now and then waits until the others had their turn."""
        ticks = self._ticks[name]
        ticks.append(time.thread_time())
        if len(ticks) % self._ticks_a_turn == 0:
            steps = [later - earlier for earlier, later in pairwise(ticks[-self._ticks_a_turn :])]
            self.turns[name].append(sum(steps) / len(steps))
            self._hand_on(name, leave=False)
            self._wait(name)

    def _run_one(self, name: str) -> None:
        self._wait(name)
        start = time.thread_time()
        try:
            self._programs[name](self)
        except BaseException as error:  # noqa: BLE001 - raised again by run, in the main thread
            self._errors.append(error)
        finally:
            ticks = self._ticks[name]
            self.rest[name] = time.thread_time() - start - (ticks[-1] - ticks[0] if ticks else 0.0)
            self._hand_on(name, leave=True)

    def _wait(self, name: str) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._holder == name)

    def _hand_on(self, name: str, leave: bool) -> None:
        with self._turn:
            position = self._order.index(name)
            after = self._order[(position + 1) % len(self._order)]
            if leave:
                self._order.remove(name)
            self._holder = after
            self._turn.notify_all()


@contextmanager
def _one_core() -> Iterator[None]:
    """Threads that are started here stay on one core, where the system can do that: a move empties the caches."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
