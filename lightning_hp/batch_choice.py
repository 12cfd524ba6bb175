"""Which sizes to try, in which order, and which one it is in the end.

The default objective is the *smallest batch that is as fast as any*: beyond the knee of the throughput a larger batch
makes no epoch shorter, it only takes steps away from it. It is raised where the classes need more, and lowered where
memory, data or the user allow less.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from lightning_hp.functional.batch_grid import BatchGrid, RoundTo
from lightning_hp.functional.batch_ladder import next_rung
from lightning_hp.functional.batch_search import search_batch_size
from lightning_hp.functional.batch_throughput import throughput_is_flat, throughput_knee

Objective = Literal["throughput", "memory"]

#: A limit of the memory is known well enough when a size fails that is larger by this share.
TOLERANCE = 0.02


class Trials(Protocol):
    """What is asked of trials; see [`BatchTrials`][lightning_hp.batch_trials.BatchTrials]."""

    @property
    def fitted(self) -> list[int]:
        """The sizes that fitted, rising."""

    @property
    def speeds(self) -> dict[int, list[float]]:
        """Samples per second by size."""

    def fits(self, size: int, validate: bool = False) -> bool:
        """Tries a size."""

    def predict(self) -> float | None:
        """The largest size that is expected to fit."""

    def affordable(self, wanted: int, last: int) -> int:
        """How far to go after ``last``."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for, all in samples of a batch of one process.

    Args:
        init_val: The first size to try.
        lowest: The smallest size to try.
        highest: The largest size to try: of data and user.
        at_least: What the classes need, 0 for nothing.
        objective: ``"throughput"``: the smallest size that is as fast as any; ``"memory"``: the largest that fits.
        within: Share of the best throughput to give away.
        round_to: As for :func:`~lightning_hp.functional.search_batch_size`.
        margin: Share to take off a limit that memory sets.
        share_of: Sizes have to divide this number, so that accumulated batches come to it; ``None``: any size.

    """

    init_val: int
    lowest: int
    highest: int
    at_least: int = 0
    objective: Objective = "throughput"
    within: float = 0.05
    round_to: RoundTo = 1
    margin: float = 0.0
    share_of: int | None = None


@dataclass(frozen=True)
class Choice:
    """The size, and what decided.

    Args:
        batch_size: The size; it was run, and so was a batch of the validation at it. ``None`` if none fits.
        decided_by: ``"throughput"``, ``"classes"``, ``"memory"``, ``"highest"`` or ``"effective_batch_size"``.
        knee: The smallest size that is as fast as any that was run.
        is_flat: Whether larger ones were seen to be no faster; else the throughput was still rising.
        limit: The largest size that memory allows, less the margin; ``None`` if it was not reached.

    """

    batch_size: int | None
    decided_by: str
    knee: int | None = None
    is_flat: bool = False
    limit: int | None = None


def choose_batch_size(trials: Trials, wanted: Wanted) -> Choice:
    """Tries sizes until it is known which one to take; that one is run last, with the validation."""
    return _Choosing(trials, wanted).run()


class _Choosing:
    def __init__(self, trials: Trials, wanted: Wanted) -> None:
        self.trials = trials
        self.wanted = wanted
        self.grid = BatchGrid.between(wanted.lowest, wanted.highest, wanted.round_to)
        self.limit: int | None = None
        self.failed: int | None = None

    def run(self) -> Choice:
        start = min(max(self.grid.down(self.wanted.init_val), self.grid.lowest), self.grid.highest)
        if self.wanted.objective == "memory":
            self.search(start, self.grid.highest)
        else:
            self.climb(start)
            self.look_back()
            self.reach()
        if not self.trials.fitted:
            return Choice(None, "memory")
        size = self.take(self.target())
        while size is not None and not self.trials.fits(size, validate=True):
            # The validation, or a second look, takes more than the steps did.
            size = self.search(max(size // 2, self.grid.lowest), size - 1, validate=True)
        if size is None:
            return Choice(None, "memory")
        return Choice(size, self.reason(size), self.knee(), self.is_flat(), self.limit)

    def climb(self, size: int) -> None:
        """Up the ladder, until the throughput is flat, the top is reached or a size fails."""
        while self.trials.fits(size):
            rung = next_rung(self.trials.speeds, self.grid.highest, self.wanted.within)
            if rung is None:
                return
            last = self.trials.fitted[-1]
            if rung > last:
                rung = max(self.grid.down(self.trials.affordable(rung, last)), self.grid.up(last))
            if (rung := self.grid.down(rung)) in self.trials.fitted:
                return
            size = rung
        self.failed = size

    def look_back(self) -> None:
        """On the way down, the size below the knee once more if it was only just too slow: a machine may be busy."""
        speeds = {size: sorted(repeats)[len(repeats) // 2] for size, repeats in self.trials.speeds.items()}
        smaller = max((size for size in speeds if size < (self.knee() or 0)), default=None)
        if smaller is not None and speeds[smaller] >= (1 - 2 * self.wanted.within) * max(speeds.values()):
            self.trials.fits(smaller)

    def reach(self) -> None:
        """What the climb left open: how far memory goes, where that matters, and what the classes need."""
        best = max(self.trials.fitted, default=0)
        if self.failed is not None and (not best or not self.is_flat()):
            if self.failed > self.grid.lowest:
                self.search(best or max(self.failed // 2, self.grid.lowest), self.failed - 1)
            return
        needed = self.needed()
        if best and needed > best:
            self.search(best, needed if self.failed is None else min(needed, self.failed - 1))

    def search(self, init_val: int, highest: int, validate: bool = False) -> int | None:
        """The largest size up to ``highest`` that fits."""
        if highest < self.grid.lowest:
            return None
        found = search_batch_size(
            partial(self.trials.fits, validate=validate),
            init_val=init_val,
            min_val=self.grid.lowest,
            max_val=highest,
            round_to=self.wanted.round_to,
            margin=self.wanted.margin,
            tolerance=TOLERANCE,
            predict=self.trials.predict,
        )
        if found.ended != "max_val" or (self.failed is not None and highest == self.failed - 1):
            self.limit = found.batch_size
            self.failed = min(filter(None, (self.failed, found.smallest_failed)), default=None)
        return found.batch_size

    def knee(self) -> int | None:
        """The smallest size that is as fast as any."""
        return throughput_knee(self.trials.speeds, self.wanted.within) if self.trials.speeds else None

    def is_flat(self) -> bool:
        """Whether larger sizes are seen to be no faster."""
        return bool(self.trials.speeds) and throughput_is_flat(self.trials.speeds, self.wanted.within)

    def needed(self) -> int:
        """What the classes need, on the grid and within the top."""
        needed = self.wanted.at_least
        on_grid = needed if self.grid.down(needed) == needed else self.grid.up(needed)
        return min(max(on_grid, self.grid.lowest), self.grid.highest)

    def target(self) -> int:
        """The size to take if there were no limit."""
        if self.wanted.objective == "memory":
            return self.grid.highest
        return max(self.knee() or self.grid.lowest, self.needed())

    def take(self, target: int) -> int | None:
        """The size itself: of those that may be taken the one nearest to the target, which is then run."""
        top = min(max(self.trials.fitted), self.limit or self.grid.highest)
        if self.wanted.share_of is None:
            return min(target, top)
        shares = [size for size in range(1, top + 1) if self.wanted.share_of % size == 0]
        return next((size for size in shares if size >= target), shares[-1])

    def reason(self, size: int) -> str:
        """What decided."""
        if self.wanted.share_of is not None:
            return "effective_batch_size"
        if self.wanted.objective == "throughput":
            knee = self.knee() or 0
            if size == self.needed() and size > knee and size >= self.wanted.at_least:
                return "classes"
            if size == knee and self.is_flat() and size >= min(self.wanted.at_least, self.grid.highest):
                return "throughput"
        if self.failed is not None:
            return "memory"
        return "highest" if size == self.grid.highest else "throughput"
