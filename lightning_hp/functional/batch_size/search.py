"""The largest batch that fits, found by running sizes: growth with limited jumps, then bisection, guided by memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lightning_hp.functional.checks import check_whole

Ending = Literal["max_val", "failure", "max_trials", "nothing_fits"]


@dataclass(frozen=True)
class BatchSearch:
    """What a search for the largest batch found.

    Attributes:
        batch_size: The largest size that ran and fitted, less the margin if there was one; ``None`` if none fitted.
        trials: Each size in the order in which it ran, and whether it fitted.
        ended: What set the size: ``"max_val"``, the ``"failure"`` of a larger one, ``"max_trials"`` before it was known
            for sure, or ``"nothing_fits"``.

    Costs nothing. Does not hold how much memory the trials took: the probe knows.

    Source: as :func:`search_batch_size`.

    Example:
        >>> found = search_batch_size(lambda batch_size: batch_size <= 20, max_val=64)
        >>> found.batch_size, found.ended, found.smallest_failed
        (20, 'failure', 21)

    """

    batch_size: int | None
    trials: tuple[tuple[int, bool], ...]
    ended: Ending

    @property
    def smallest_failed(self) -> int | None:
        """The smallest size that did not fit, ``None`` if every one did."""
        return min((size for size, fitted in self.trials if not fitted), default=None)


def search_batch_size(
    fits: Callable[[int], bool],
    *,
    init_val: int = 2,
    min_val: int = 1,
    max_val: int = 8192,
    round_to: RoundTo = 1,
    margin: float = 0.0,
    tolerance: float = 0.0,
    predict: Callable[[], float | None] | None = None,
    max_jump: float = 2.0,
    max_trials: int = 30,
) -> BatchSearch:
    """The largest batch size that fits, by running sizes: it never returns one that did not itself run and fit.

    Doubles until a size fails or ``max_val`` has run, then bisects. What was found is run once more if a size failed
    after it: memory that ran out once is in another state. A size that fitted and then fails is withdrawn.

    Args:
        fits: Runs real steps at a batch size, and says whether they fitted. What it raises ends the search. On several
            ranks it has to say the same on all, and so has ``predict``: then all run the same sizes.
        init_val: The first size to run; the nearest allowed one below it if it is not, >= 1.
        min_val: The smallest size to run, >= 1.
        max_val: The largest size to run, >= ``min_val``: of the user, of the dataset, of the steps that are wanted.
        round_to: ``1`` any size, ``m`` multiples of m (and powers of two below m), ``"power"`` powers of two.
        margin: Share to take off what was found if a larger size failed, >= 0 and < 1; the smaller size is run too.
        tolerance: Stop when a size fails that is larger by no more than this share, >= 0. ``0`` finds the exact limit.
        predict: Says the largest size that is expected to fit by the memory measured so far, or ``None`` if it cannot
            tell, as :func:`predict_batch_size` does. Advice only: a wrong one costs trials, and no other answer.
        max_jump: How many times the largest size that fitted the next one may be when it is predicted, >= 2. On two
            measured networks 2 never took more than 1.10 times the budget that was predicted for, and 4 took 1.28.
        max_trials: The most calls of ``fits``, >= 1.

    Returns:
        The size, and every trial on the way to it.

    Raises:
        ValueError: If an argument is out of its range, or no allowed size lies from ``min_val`` to ``max_val``.

    Costs about 2 log2(limit) trials, 26 for a limit near 8192; two thirds with a good ``predict`` or a ``tolerance``.
    Does not help on a CPU without a budget in ``fits``: there the process is killed before an allocation fails.

    Source: doubling and bisection as in Lightning's ``BatchSizeFinder``, with every size that it may return run.

    Example:
        >>> search_batch_size(lambda batch_size: batch_size <= 100, init_val=16).trials[:6]
        ((16, True), (32, True), (64, True), (128, False), (96, True), (112, False))
        >>> search_batch_size(lambda batch_size: batch_size <= 100, round_to=8).batch_size
        96

    """
    for name, value, least in (("init_val", init_val, 1), ("min_val", min_val, 1), ("max_trials", max_trials, 1)):
        check_whole(name, value, least)
    check_whole("max_val", max_val, min_val)
    for name, share, below in (("margin", margin, 1.0), ("tolerance", tolerance, math.inf)):
        if not 0 <= share < below:
            raise ValueError(f"Expected `{name}` to be >= 0 and < {below:g}, but got {share!r}.")
    if not max_jump >= 2:
        raise ValueError(f"Expected `max_jump` to be >= 2, but got {max_jump!r}.")
    grid = BatchGrid.between(min_val, max_val, round_to)
    search = _Search(fits, grid, margin, tolerance, predict, max_jump)
    return search.run(min(max(grid.down(init_val), grid.lowest), grid.highest), max_trials)


class _Search:
    """What is known so far: the sizes that fitted, and below them all that failed the smallest."""

    def __init__(
        self,
        fits: Callable[[int], bool],
        grid: BatchGrid,
        margin: float,
        tolerance: float,
        predict: Callable[[], float | None] | None,
        max_jump: float,
    ) -> None:
        self.fits = fits
        self.grid = grid
        self.margin = margin
        self.tolerance = tolerance
        self.predict = predict
        self.max_jump = max_jump
        self.trials: list[tuple[int, bool]] = []
        self.fitted: set[int] = set()
        self.failed = math.inf
        self.slow = 0
        self.gain = 0

    @property
    def best(self) -> int:
        """The largest size that fitted and was not withdrawn, 0 for none."""
        return max(self.fitted, default=0)

    @property
    def floor(self) -> int:
        """The next size above the best."""
        return max(self.grid.up(self.best), self.grid.lowest)

    @property
    def top(self) -> int:
        """The largest size that may still fit."""
        return self.grid.highest if self.failed > self.grid.highest else self.grid.down(self.failed - 1)

    @property
    def known(self) -> bool:
        """Whether the limit is found."""
        if not self.best:
            return self.failed <= self.grid.lowest
        return self.best >= self.top or self.failed - self.best <= self.tolerance * self.best

    @property
    def target(self) -> int:
        """The size to end with: the largest, less the margin where memory set it."""
        if self.failed == math.inf or not self.margin:
            return self.best
        return max(self.grid.down(self.best - int(self.best * self.margin)), self.grid.lowest)

    def run(self, size: int | None, max_trials: int) -> BatchSearch:
        while size is not None:
            self.try_size(size)
            size = self.next_size(max_trials - len(self.trials))
        if not self.best:
            return BatchSearch(None, tuple(self.trials), "nothing_fits" if self.known else "max_trials")
        ended: Ending = "max_trials" if not self.known else "max_val" if self.failed == math.inf else "failure"
        return BatchSearch(self.target if self.target in self.fitted else self.best, tuple(self.trials), ended)

    def try_size(self, size: int) -> None:
        best, failed = self.best, self.failed
        fitted = bool(self.fits(size))
        self.trials.append((size, fitted))
        if fitted:
            self.fitted.add(size)
        else:
            self.failed = size
            self.fitted = {other for other in self.fitted if other < size}
        if failed == math.inf:
            quick = self.failed < math.inf or self.best >= 2 * best
        else:
            quick = self.failed - self.best <= (failed - best) / 2
        self.slow = 0 if quick else self.slow + 1
        self.gain = self.best - best

    def next_size(self, left: int) -> int | None:
        """What to run next with so many trials left, ``None`` to end."""
        kept = 1 if self.best and self.failed < math.inf else 0  # for the target
        if left > kept and not self.known:
            return self.advised() or self.plain()
        if not left or not self.best or self.trials[-1] == (self.target, True):
            return None
        return self.target

    def plain(self) -> int:
        """Twice the best, or half-way between what fitted and what failed."""
        size = min(2 * self.best, self.top) if self.failed == math.inf else (self.best + self.failed) // 2
        return max(self.grid.down(size), self.floor)

    def advised(self) -> int | None:
        """The size that is expected to fit, or the next above the best if that is expected to be the last.

        Advice that gains little may be wrong. Below the limit steps then grow from small ones, since twice the best may
        be far more than fits; between two limits bisection takes over.
        """
        if self.predict is None or (self.slow and self.failed < math.inf):
            return None
        expected = self.predict()
        if expected is None or not expected < self.failed:
            return None
        closing = self.grid.down(self.best * (1 + self.tolerance))  # if this one fails, the limit is known
        if self.failed == math.inf:
            expected = min(expected, self.max_jump * self.best)
            closing = max(closing, self.grid.down(self.best + 2 * self.gain) if self.slow > 1 else 0)
        return min(max(self.grid.down(max(expected, 0)), closing, self.floor), self.top)


RoundTo = int | Literal["power"]


class BatchGrid(NamedTuple):
    """Allowed batch sizes from one to another.

    Attributes:
        lowest: The smallest allowed size.
        highest: The largest allowed size.
        round_to: ``1`` every size, ``m`` multiples of m and powers of two below m, ``"power"`` powers of two.
    """

    lowest: int
    highest: int
    round_to: RoundTo

    @classmethod
    def between(cls, min_val: int, max_val: int, round_to: RoundTo) -> BatchGrid:
        """The allowed sizes from ``min_val`` to ``max_val``.

        Raises:
            ValueError: If there is none, or ``round_to`` is neither an int >= 1 nor ``"power"``.

        """
        if isinstance(round_to, str) and round_to != "power":
            raise ValueError(f"Expected `round_to` to be an int >= 1 or 'power', but got {round_to!r}.")
        step: RoundTo = round_to if isinstance(round_to, str) else check_whole("round_to", round_to, least=1)
        everything = cls(1, max_val, step)
        grid = cls(everything.up(min_val - 1), everything.down(max_val), step)
        if grid.lowest > grid.highest:
            kind = "power of two" if step == "power" else f"multiple of {step} (or power of two below it)"
            raise ValueError(f"Expected a {kind} from `min_val` to `max_val`, but {min_val} to {max_val} has none.")
        return grid

    def down(self, size: float) -> int:
        """The largest allowed size that is not above ``size``, 0 if there is none."""
        whole = int(size)
        if self.round_to == "power" or whole < self.round_to:
            return 1 << whole.bit_length() - 1 if whole >= 1 else 0
        return whole - whole % self.round_to

    def up(self, size: float) -> int:
        """The smallest allowed size above ``size``."""
        below = self.down(size)
        if below == 0:
            return 1
        if self.round_to == "power":
            return 2 * below
        return below + self.round_to if below >= self.round_to else min(2 * below, self.round_to)
