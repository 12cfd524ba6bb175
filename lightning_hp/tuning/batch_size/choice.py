"""Which batch sizes to try, in which order, and which one to take.

The default objective is the *smallest batch that is as fast as any*: beyond the knee of the throughput a larger batch
does not shorten an epoch and only reduces the number of optimizer steps. It is raised where the classes need more, and
lowered where memory, data or the user allow less.

    try the first size; halve it until it fits
    grow: try larger sizes until two of them are no faster, or one does not fit
    search_limit: search the memory limit, if grow ended at it, or the size that the classes need
    grow again below the memory limit
    settle: repeat the sizes around the knee until it does not depend on one disturbed trial
    take the knee or what the classes need, whichever is larger, within the limits
    run that size with a validation batch; if it does not fit, search below it and take again

A training that has a batch size chooses from a ladder of four times and a quarter of it instead of all sizes, so that
the choice rarely depends on the noise of the timings. With ``objective="memory"`` the sizes grow by factors of four
(grow_fast), and only the memory limit is searched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from lightning_hp.functional.batch_size.ladder import is_level, ladder, next_trial, smallest_fast_size
from lightning_hp.functional.batch_size.search import BatchGrid, RoundTo, search_batch_size
from lightning_hp.functional.batch_size.steady import next_repeat, steady_knee
from lightning_hp.functional.batch_size.throughput import LONG_STEP, RUNG, next_rung, throughput_is_flat

Objective = Literal["throughput", "memory"]

#: The memory limit is known well enough once a size that is larger by this share does not fit.
TOLERANCE = 0.02


class Trials(Protocol):
    """Runs sizes; implemented by [`BatchTrials`][lightning_hp.tuning.batch_size.trials.BatchTrials]."""

    @property
    def fitted(self) -> list[int]:
        """The sizes that fitted, in ascending order."""

    @property
    def speeds(self) -> dict[int, list[float]]:
        """Samples per second of each trial, by size."""

    def fits(self, size: int, validate: bool = False) -> bool:
        """Runs a size and returns whether it fits."""

    def predict(self) -> float | None:
        """The largest size that is expected to fit."""

    def affordable(self, wanted: int, last: int) -> int:
        """The size nearest to ``wanted`` that memory allows to try after ``last``."""


def always(size: int) -> bool:
    """Every size may be taken."""
    return True


@dataclass(frozen=True)
class SearchGoal:
    """What the search looks for, in samples of a batch of one process.

    Args:
        init_val: The first size to try, or on a ladder at most twice that.
        lowest: The smallest size to try.
        highest: The largest size to try, by data and user.
        at_least: What the classes need; 0 if nothing.
        objective: ``"throughput"``: the smallest size that is as fast as any; ``"memory"``: the largest that fits.
        within: Share of the best throughput that is given up for a smaller size.
        round_to: As for :func:`~lightning_hp.functional.search_batch_size`.
        margin: Share that is subtracted from the memory limit.
        divisor_of: The size has to divide this number of samples, which accumulated batches add up to; ``None``: any.
        present: The size that the training has now, from which the ladder of sizes is built; ``None``: it has no
            bearing, and all sizes of the grid are possible.
        is_allowed: Whether a size may be taken. Other sizes are run to measure them, and never taken.

    """

    init_val: int
    lowest: int
    highest: int
    at_least: int = 0
    objective: Objective = "throughput"
    within: float = 0.05
    round_to: RoundTo = 1
    margin: float = 0.0
    divisor_of: int | None = None
    present: int | None = None
    is_allowed: Callable[[int], bool] = always


@dataclass(frozen=True)
class Choice:
    """The size that was chosen, and why.

    Args:
        batch_size: The size, which was run together with a validation batch; ``None`` if none fits or none is allowed.
        decided_by: ``"throughput"``, ``"classes"``, ``"memory"``, ``"highest"`` or ``"effective_batch_size"``.
        knee: The smallest size that is as fast as any that was run, up to the share that may be lost.
        is_flat: Whether larger sizes were run and were no faster; if not, the throughput was still rising.
        limit: The largest size that memory allows, minus the margin; ``None`` if it was not reached.
        avoided: The size that would have been taken if it were allowed; ``None`` if ``batch_size`` is that one.
        kept: Whether ``batch_size`` is the present size, and the throughput decided it.

    """

    batch_size: int | None
    decided_by: str
    knee: int | None = None
    is_flat: bool = False
    limit: int | None = None
    avoided: int | None = None
    kept: bool = False


def choose_batch_size(trials: Trials, goal: SearchGoal) -> Choice:
    """Runs sizes until it is known which one to take; that one is run last, with a validation batch.

    Args:
        trials: Runs the sizes.
        goal: What to look for.

    Returns:
        The size and why it was chosen; its ``batch_size`` is ``None`` if no size fits.

    """
    return _Search(trials, goal).run()


def possible_sizes(goal: SearchGoal, highest: int) -> list[int]:
    """The sizes up to ``highest`` that may be taken, in ascending order: on the grid, a divisor, and allowed."""
    grid = BatchGrid.between(goal.lowest, goal.highest, goal.round_to)
    sizes, size = [], grid.lowest
    while size <= min(highest, grid.highest):
        if (goal.divisor_of is None or goal.divisor_of % size == 0) and goal.is_allowed(size):
            sizes.append(size)
        size = grid.up(size)
    present = goal.present
    if present is not None and goal.lowest <= present <= highest and goal.is_allowed(present):
        sizes = sorted({*sizes, present})
    return sizes


class _Search:
    """The state of a search: which sizes fitted is in the trials, the limits are here."""

    def __init__(self, trials: Trials, goal: SearchGoal) -> None:
        self.trials = trials
        self.goal = goal
        self.grid = BatchGrid.between(goal.lowest, goal.highest, goal.round_to)
        self.limit: int | None = None
        self.failed: int | None = None

    def run(self) -> Choice:
        if self.goal.objective == "memory":
            self.grow_fast()
            self.search(max(self.trials.fitted, default=self.start), self.failed or self.grid.highest)
        elif self.first():
            self.grow(self.grid.highest)
            self.search_limit()
            if self.failed is not None:  # the sizes below it may have another knee
                self.grow(max((size for size in self.trials.fitted if size <= self.top), default=0))
            self.settle()
        choice = self.choice()
        while choice.batch_size is not None and not self.trials.fits(choice.batch_size, validate=True):
            # The validation, or the second run, took more memory than the steps did.
            self.failed = choice.batch_size
            self.search(self.below(self.failed), self.failed, validate=True)
            choice = self.choice()
        return choice

    def choice(self) -> Choice:
        """The choice by what is known now."""
        wanted = self.wanted()
        size = None if wanted is None else self.allowed(wanted)
        if size is None or wanted is None:
            return Choice(None, "memory")
        avoided = None if size == wanted else wanted
        reason = self.reason(wanted)
        kept = size == self.goal.present and reason == "throughput"
        return Choice(size, reason, self.knee(), self.is_flat(), self.limit, avoided, kept)

    @property
    def has_ladder(self) -> bool:
        """Whether the training has a size, from which the sizes to choose from follow."""
        return self.goal.present is not None and self.goal.objective == "throughput"

    @property
    def start(self) -> int:
        """The first size to try."""
        first = min(max(self.grid.down(self.goal.init_val), self.grid.lowest), self.grid.highest)
        if not (sizes := self.ladder()):
            return first
        lowest = min(sizes) if min(sizes) <= (self.goal.present or 0) else first
        return max((size for size in sizes if size <= 2 * self.goal.init_val), default=lowest)

    @property
    def top(self) -> int:
        """The largest size that may be taken by what is known; 0 if none fitted."""
        below = [size for size in self.trials.fitted if self.failed is None or size < self.failed]
        return min(max(below, default=0), self.limit or self.grid.highest)

    def first(self) -> bool:
        """Runs the first size, halving it until it fits; returns whether one does."""
        size = self.start
        while not self.trials.fits(size):
            self.failed = size
            if size == self.grid.lowest:
                return False
            size = max(self.grid.down(size // 2), self.grid.lowest)
        return True

    def grow_fast(self) -> None:
        """Runs sizes that grow by a factor of four, while the next one is expected to fit."""
        size = self.start
        while self.trials.fits(size):
            further = self.grid.down(min(LONG_STEP * size, self.grid.highest))
            if size == further or self.trials.affordable(further, size) < further:
                return
            size = further
        self.failed = size

    def grow(self, top: int) -> None:
        """Runs larger sizes until the knee is known or a size fails."""
        while top and (rung := self.next_rung(top)) is not None:
            last = self.trials.fitted[-1]
            if rung > last:
                rung = max(self.on_grid(self.trials.affordable(rung, last)), min(rung, self.grid.up(last)))
            rung = self.on_grid(rung)
            if rung in self.trials.fitted or (self.failed is not None and rung >= self.failed):
                return
            if not self.trials.fits(rung):
                if rung > last:
                    self.failed = rung
                return

    def next_rung(self, top: int) -> int | None:
        """The next size to run, up to ``top``; ``None`` if the sizes around the knee are known."""
        if self.has_ladder:
            return next_trial(self.trials.speeds, self.ladder(top), 1 - self.goal.within)
        floor = min(self.needed(), self.start)  # a knee below what the classes need does not matter
        return next_rung(self.trials.speeds, top, self.goal.within, floor)

    def ladder(self, top: int | None = None) -> list[int]:
        """The sizes to choose from, in ascending order, if the training has a size; else none."""
        if not self.has_ladder or self.goal.present is None:
            return []
        highest = min(filter(None, (self.grid.highest, self.limit, top)))
        lowest = min(self.needed(), highest)
        anchor = min(max(self.goal.present, lowest), highest)
        sizes = ladder(anchor, lowest, highest)
        return sorted({self.on_grid(size) for size in sizes})

    def on_grid(self, size: int) -> int:
        """The present size itself, or the largest size of the grid up to another one."""
        return size if size == self.goal.present else self.grid.down(size)

    def settle(self) -> None:
        """Repeats sizes around the knee as far as the noise makes it necessary."""
        while (size := self.next_repeat()) is not None:
            if not self.trials.fits(size):
                self.failed = min(filter(None, (self.failed, size)))
                return
            # Another knee may need another size below it, or one above it that a disturbed trial hid.
            self.grow(self.top if self.failed is not None or not self.has_ladder else self.grid.highest)

    def next_repeat(self) -> int | None:
        """The size to run once more; ``None`` if the choice is certain enough."""
        speeds = {size: repeats for size, repeats in self.trials.speeds.items() if size <= self.top}
        if not speeds:
            return None
        if not self.has_ladder:
            return next_repeat(speeds, self.goal.within, self.needed())
        size = next_trial(speeds, self.ladder(self.top), 1 - self.goal.within)
        return size if size in speeds else None

    def search_limit(self) -> None:
        """Searches what ``grow`` left open: the memory limit, where it matters, or the size that the classes need."""
        best = self.top
        if self.failed is not None and not self.is_flat():
            self.search(best, self.failed)
        elif self.needed() > best:
            self.search(best, min(filter(None, (self.needed(), self.failed))))

    def below(self, failed: int) -> int:
        """The size to try after one that had fitted before: by the memory that it took, else half of it."""
        predicted = min(int(self.trials.predict() or 0), failed - 1)
        return max(self.grid.down((1 - TOLERANCE) * predicted), failed // 2, self.grid.lowest)

    def search(self, init_val: int, highest: int, validate: bool = False) -> None:
        """Searches the largest size up to ``highest`` that fits, and keeps it as the limit if a larger one fails."""
        found = search_batch_size(
            partial(self.fits, validate=validate),
            init_val=init_val,
            min_val=min(self.grid.lowest, highest),
            max_val=highest,
            round_to=self.goal.round_to,
            tolerance=TOLERANCE,
            predict=self.trials.predict,
        )
        if found.smallest_failed is None:
            return
        self.failed = min(filter(None, (self.failed, found.smallest_failed)))
        if found.batch_size is not None:
            self.limit = self.less_margin(found.batch_size)

    def less_margin(self, largest: int) -> int:
        """The memory limit minus the margin; the limit may lie above the largest size of the grid that fits."""
        limit = max(largest, min(int(self.trials.predict() or 0), (self.failed or 0) - 1))
        most = limit - int(limit * self.goal.margin)
        return max(self.grid.down(min(largest, most)), self.grid.lowest)

    def fits(self, size: int, validate: bool) -> bool:
        """Whether a size fits, without running one whose answer is known."""
        if self.failed is not None and size >= self.failed:
            return False
        return (size in self.trials.fitted and not validate) or self.trials.fits(size, validate)

    def knee(self) -> int | None:
        """The smallest size that is as fast as any that was run, up to the noise; ``None`` before the first."""
        if self.has_ladder and self.top:
            return smallest_fast_size(self.trials.speeds, self.ladder(self.top), 1 - self.goal.within)
        return steady_knee(self.trials.speeds, self.goal.within) if self.trials.speeds else None

    def is_flat(self) -> bool:
        """Whether larger sizes were run and were no faster."""
        if self.has_ladder:
            return is_level(self.trials.speeds, self.ladder())
        return bool(self.trials.speeds) and throughput_is_flat(self.trials.speeds, self.goal.within)

    def needed(self) -> int:
        """The size that the classes need, on the grid."""
        needed = self.goal.at_least
        on_grid = needed if self.grid.down(needed) == needed else self.grid.up(needed)
        return min(max(on_grid, self.grid.lowest), self.grid.highest)

    def target(self) -> int:
        """The size to take without limits."""
        if self.goal.objective == "memory":
            return self.grid.highest
        return max(self.knee() or self.grid.lowest, self.needed())

    def wanted(self) -> int | None:
        """The size nearest to the target of those that fit, whether it is allowed or not; ``None`` if there is none."""
        if not (top := self.top):
            return None
        if self.goal.divisor_of is None:
            return min(self.target(), top)
        shares = [size for size in range(self.grid.lowest, top + 1) if self.goal.divisor_of % size == 0]
        return next((size for size in shares if size >= self.target()), shares[-1] if shares else None)

    def allowed(self, wanted: int) -> int | None:
        """The allowed size nearest below a size, else the nearest above it that may fit; ``None`` if there is none."""
        sizes = possible_sizes(
            self.goal, min(self.limit or self.grid.highest, (self.failed or self.grid.highest + 1) - 1)
        )
        below = max((size for size in sizes if size <= wanted), default=None)
        return min(sizes, default=None) if below is None else below

    def reason(self, size: int) -> str:
        """Which bound decided a size."""
        if self.goal.divisor_of is not None:
            return "effective_batch_size"
        if self.goal.objective == "throughput" and size >= min(self.goal.at_least, self.grid.highest):
            knee = self.knee() or 0
            on_ladder = self.has_ladder and self.goal.at_least > 0  # smaller sizes were not run
            if size == self.needed() and size >= self.goal.at_least and (knee < size or on_ladder):
                return "classes"
            if size == knee and (self.is_flat() or size * RUNG < self.top):
                return "throughput"
        if size == self.grid.highest:
            return "highest"
        return "throughput" if self.limit is None and self.failed is None else "memory"
