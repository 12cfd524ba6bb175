"""The largest value of something that keeps no peak of its own: a thread that looks again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

_LEAST_PAUSE = 20.0  # times what a look takes: a twentieth of a core at most
_MOST_WAITS = 1000


class Sampler:
    """Calls ``read()`` from a thread as long as the ``with`` block lasts, and once at each of its ends.

    Args:
        read: What to look at.
        period: Seconds from one look to the next; more if a look takes long.

    """

    def __init__(self, read: Callable[[], int], period: float) -> None:
        self.read = read
        self.period = period
        self.largest = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lightning_hp-memory", daemon=True)

    def __enter__(self) -> Sampler:
        self.largest = self.read()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        self._leave()
        self.largest = max(self.largest, self.read())

    def _leave(self) -> None:
        """Waits for the thread of the system too: while it ends, a next one would get address space of its own."""
        of_system = Path(f"/proc/self/task/{self._thread.native_id}")
        for _ in range(_MOST_WAITS):
            if not of_system.exists():
                return
            time.sleep(0.001)

    def _run(self) -> None:
        pause = self.period
        while not self._done.wait(pause):
            start = time.perf_counter()
            self.largest = max(self.largest, self.read())
            pause = max(self.period, _LEAST_PAUSE * (time.perf_counter() - start))
