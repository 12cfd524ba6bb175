"""Which sizes to try, in which order, and which one it is in the end.

The default objective is the *smallest batch that is as fast as any*: beyond the knee of the throughput a larger batch
makes no epoch shorter, it only takes steps away from it. It is raised where the classes need more, and lowered where
memory, data or the user allow less.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from lightning_hp.functional.batch_size.search import BatchGrid, RoundTo, search_batch_size
from lightning_hp.functional.batch_size.throughput import (
    LONG_STEP,
    RUNG,
    medians_of,
    next_rung,
    throughput_is_flat,
    throughput_knee,
)

Objective = Literal["throughput", "memory"]

#: A limit of the memory is known well enough when a size fails that is larger by this share.
TOLERANCE = 0.02


class Trials(Protocol):
    """What is asked of trials; see [`BatchTrials`][lightning_hp.tuning.batch_size.trials.BatchTrials]."""

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
        leaves_no_one: Samples of which no size may leave a last batch of a single one; ``None``: no such care.

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
    leaves_no_one: int | None = None


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
        if self.wanted.objective == "memory":
            self.leap()
            self.search(max(self.trials.fitted, default=self.start), self.failed or self.grid.highest)
        elif self.first():
            self.climb(self.grid.highest)
            self.reach()
            if self.failed is not None:  # what is left below it may have another knee
                self.climb(max((size for size in self.trials.fitted if size <= self.top), default=0))
            self.look_back()
        choice = self.choice()
        while choice.batch_size is not None and not self.trials.fits(choice.batch_size, validate=True):
            # The validation, or a second look, takes more than the steps did.
            self.failed = choice.batch_size
            self.search(max(self.failed // 2, self.grid.lowest), self.failed, validate=True)
            choice = self.choice()
        return choice

    def choice(self) -> Choice:
        """What follows from all that is known now."""
        size = self.take()
        if size is None:
            return Choice(None, "memory")
        return Choice(size, self.reason(size), self.knee(), self.is_flat(), self.limit)

    @property
    def start(self) -> int:
        """The first size."""
        return min(max(self.grid.down(self.wanted.init_val), self.grid.lowest), self.grid.highest)

    @property
    def top(self) -> int:
        """The largest size that may be taken by what is known, 0 if none fitted."""
        below = [size for size in self.trials.fitted if self.failed is None or size < self.failed]
        return min(max(below, default=0), self.limit or self.grid.highest)

    def first(self) -> bool:
        """The first size, or the largest of its halves that fits."""
        size = self.start
        while not self.trials.fits(size):
            self.failed = size
            if size == self.grid.lowest:
                return False
            size = max(self.grid.down(size // 2), self.grid.lowest)
        return True

    def leap(self) -> None:
        """By four, as long as that is sure to fit."""
        size = self.start
        while self.trials.fits(size):
            further = self.grid.down(min(LONG_STEP * size, self.grid.highest))
            if size == further or self.trials.affordable(further, size) < further:
                return
            size = further
        self.failed = size

    def climb(self, top: int) -> None:
        """The ladder, until there is nothing left to learn from it or a size fails."""
        floor = min(self.needed(), self.start)  # below what the classes need the knee does not matter
        while top and (rung := next_rung(self.trials.speeds, top, self.wanted.within, floor)) is not None:
            last = self.trials.fitted[-1]
            if rung > last:
                rung = max(self.grid.down(self.trials.affordable(rung, last)), self.grid.up(last))
            rung = self.grid.down(rung)
            if rung in self.trials.fitted or (self.failed is not None and rung >= self.failed):
                return
            if not self.trials.fits(rung):
                if rung > last:
                    self.failed = rung
                return

    def look_back(self) -> None:
        """On the way down, the rung below the knee once more if it was only just too slow: a machine may be busy."""
        speeds = medians_of(self.trials.speeds)
        smaller = max((size for size in speeds if size * RUNG <= (self.knee() or 0)), default=0)
        if smaller >= self.needed() and speeds[smaller] >= (1 - 2 * self.wanted.within) * max(speeds.values()):
            self.trials.fits(smaller)

    def reach(self) -> None:
        """What the climb left open: how far memory goes, where that matters, and what the classes need."""
        best = self.top
        if self.failed is not None and not self.is_flat():
            self.search(best, self.failed)
        elif self.needed() > best:
            self.search(best, min(filter(None, (self.needed(), self.failed))))

    def search(self, init_val: int, highest: int, validate: bool = False) -> None:
        """The largest size up to ``highest`` that fits, as the limit if it is one."""
        found = search_batch_size(
            partial(self.fits, validate=validate),
            init_val=init_val,
            min_val=min(self.grid.lowest, highest),
            max_val=highest,
            round_to=self.wanted.round_to,
            tolerance=TOLERANCE,
            predict=self.trials.predict,
        )
        if found.smallest_failed is None:
            return
        self.failed = min(filter(None, (self.failed, found.smallest_failed)))
        if found.batch_size is not None:
            self.limit = self.less_margin(found.batch_size)

    def less_margin(self, largest: int) -> int:
        """Whole samples off what memory allows, which may be more than the largest on the grid that fits."""
        room = max(largest, min(int(self.trials.predict() or 0), (self.failed or 0) - 1))
        most = room - int(room * self.wanted.margin)
        return max(self.grid.down(min(largest, most)), self.grid.lowest)

    def fits(self, size: int, validate: bool) -> bool:
        """As the trials say, where they did not say it already; the answer is run once more at the end."""
        if self.failed is not None and size >= self.failed:
            return False
        return (size in self.trials.fitted and not validate) or self.trials.fits(size, validate)

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

    def take(self) -> int | None:
        """The size itself: of those that may be taken the one nearest to the target, which is then run."""
        if not (top := self.top):
            return None
        if self.wanted.share_of is None:
            size = min(self.target(), top)
            samples = self.wanted.leaves_no_one
            one_left = samples is not None and size > self.grid.lowest and samples % size == 1
            return self.grid.down(size - 1) if one_left else size
        shares = [size for size in range(self.grid.lowest, top + 1) if self.wanted.share_of % size == 0]
        return next((size for size in shares if size >= self.target()), shares[-1] if shares else None)

    def reason(self, size: int) -> str:
        """What decided."""
        if self.wanted.share_of is not None:
            return "effective_batch_size"
        if self.wanted.objective == "throughput" and size >= min(self.wanted.at_least, self.grid.highest):
            knee = self.knee() or 0
            if size == self.needed() and knee < size >= self.wanted.at_least:
                return "classes"
            if size == knee and (self.is_flat() or size * RUNG < self.top):
                return "throughput"
        if size == self.grid.highest:
            return "highest"
        return "throughput" if self.limit is None and self.failed is None else "memory"
