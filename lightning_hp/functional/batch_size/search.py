"""The largest batch size that fits, found by running sizes.

Pseudo-code:

    best, failed = 0, infinity; size = init_val
    until best is next to failed, or is max_val:
        run size; if it fits: best = size, else: failed = size
        if memory predicts a size: size = prediction, at most max_jump * best
        elif no size has failed:   size = 2 * best
        else:                      size = (best + failed) / 2
    if a size failed after best ran: run best again

Doubling and bisection are those of ``BatchSizeFinder`` of Lightning. Here each size that may be returned has run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lightning_hp.functional.checks import (
    MAX_INT,
    check_bool,
    check_callable,
    check_int,
    check_number,
    is_number,
    wrong_type,
    wrong_value,
)

Ending = Literal["max_val", "failure", "max_trials", "nothing_fits"]

RoundTo = int | Literal["power", "half_power"]


@dataclass(frozen=True)
class BatchSearch:
    """The result of a search for the largest batch size.

    Attributes:
        batch_size: The largest size that ran and fitted, less the margin if there was one; ``None`` if none fitted.
        trials: Each size in the order of the runs, and whether it fitted.
        smallest_failed: The smallest size that failed; ``None`` if none did.
        ended: What ended the search: ``"max_val"``, the ``"failure"`` of a larger size, ``"max_trials"`` if the trials
            ended before the limit was known, or ``"nothing_fits"``.

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
        """The smallest size that did not fit, ``None`` if all of them did."""
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
    """The largest batch size that fits. Only a size that itself ran and fitted is returned.

    The size is doubled until one fails or ``max_val`` has run, then bisected. If a size failed after the result ran,
    the result runs again, since the state of the memory differs after it ran out. A size that fitted and fails later is
    dropped.

    Args:
        fits: Runs real training steps at a batch size, and returns whether they fitted. An exception in it ends the
            search. With several processes it has to return the same on all of them, and so has ``predict``: then all
            run the same sizes.
        init_val: The first size to run, >= 1; rounded down to an allowed one.
        min_val: The smallest size to run, >= 1.
        max_val: The largest size to run, >= ``min_val``.
        round_to: ``1`` allows all sizes, ``m`` multiples of m (and powers of two below m), ``"power"`` powers of two,
            ``"half_power"`` those and the sizes half-way between them (32, 48, 64, 96).
        margin: If a larger size failed, the result is smaller by this share, >= 0 and < 1. The smaller size runs too.
        tolerance: The search stops when a size fails that is larger than the result by at most this share, >= 0. ``0``
            finds the exact limit.
        predict: Returns the largest size that is expected to fit by the memory measured so far, or ``None`` if that is
            not known, as :func:`predict_batch_size` does. A wrong prediction costs trials and does not change the
            result.
        max_jump: The largest ratio of a predicted size to the largest size that fitted, >= 2. On two measured networks
            a trial took at most 1.18 times the memory that was predicted for with 2, and 1.25 times with 4, where 8
            samples or more fitted; 1.47 times where fewer did.
        max_trials: The largest number of calls of ``fits``, >= 1.

    Returns:
        The size, and all trials.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range, or no allowed size lies from ``min_val`` to ``max_val``.

    Note:
        It takes about 2 log2(limit) trials, 26 for a limit near 8192, and two thirds of them with a good ``predict`` or
        a ``tolerance``. On a CPU ``fits`` needs a memory budget of its own: the operating system kills the process
        before an allocation fails.

    Example:
        >>> search_batch_size(lambda batch_size: batch_size <= 100, init_val=16).trials[:6]
        ((16, True), (32, True), (64, True), (128, False), (96, True), (112, False))
        >>> search_batch_size(lambda batch_size: batch_size <= 100, round_to=8).batch_size
        96

    """
    check_callable("fits", fits, what="a function of a batch size")
    first = check_int("init_val", init_val, 1)
    smallest = check_int("min_val", min_val, 1)
    grid = BatchGrid.between(smallest, check_int("max_val", max_val, smallest), round_to)
    if predict is not None:
        check_callable("predict", predict, also="None")
    search = _Search(
        fits,
        grid,
        margin=check_number("margin", margin, minimum=0, below=1),
        tolerance=check_number("tolerance", tolerance, minimum=0),
        predict=predict,
        max_jump=check_number("max_jump", max_jump, minimum=2, finite=False),
        max_trials=check_int("max_trials", max_trials, 1),
    )
    return search.run(min(max(grid.down(first), grid.lowest), grid.highest))


class BatchGrid(NamedTuple):
    """Allowed batch sizes.

    Attributes:
        lowest: The smallest allowed size.
        highest: The largest allowed size.
        round_to: ``1`` every size, ``m`` multiples of m and powers of two below m, ``"power"`` powers of two,
            ``"half_power"`` those and the sizes half-way between them.
    """

    lowest: int
    highest: int
    round_to: RoundTo

    @classmethod
    def between(cls, min_val: int, max_val: int, round_to: RoundTo) -> BatchGrid:
        """The allowed sizes from ``min_val`` to ``max_val``.

        Raises:
            TypeError: If ``round_to`` is of the wrong type.
            ValueError: If there is no allowed size, or ``round_to`` is none of the above.

        """
        step: RoundTo
        if isinstance(round_to, str):
            if round_to not in ("power", "half_power"):
                wrong_value("round_to", "'power', 'half_power', or an int >= 1", round_to)
            step = round_to
        else:
            step = check_int("round_to", round_to, 1, also="'power' or 'half_power'")
        all_sizes = cls(1, max_val, step)
        grid = cls(all_sizes.up(min_val - 1), all_sizes.down(max_val), step)
        if grid.lowest > grid.highest:
            kind = "power of two" if isinstance(step, str) else f"multiple of {step} (or power of two below it)"
            raise ValueError(f"Expected `min_val` to `max_val` to include a {kind}, but got {min_val} to {max_val}.")
        return grid

    def down(self, size: float) -> int:
        """The largest allowed size that is not above ``size``, 0 if there is none."""
        whole = int(min(size, MAX_INT))
        if isinstance(self.round_to, str) or whole < self.round_to:
            power = 1 << whole.bit_length() - 1 if whole >= 1 else 0
            half_way = power + power // 2
            return half_way if self.round_to == "half_power" and whole >= half_way else power
        return whole - whole % self.round_to

    def up(self, size: float) -> int:
        """The smallest allowed size above ``size``."""
        below = self.down(size)
        if below == 0:
            return 1
        if self.round_to == "power":
            return 2 * below
        if self.round_to == "half_power":  # a power of two has one bit
            return below + max(1, below // 2) if below.bit_count() == 1 else 4 * (below // 3)
        return below + self.round_to if below >= self.round_to else min(2 * below, self.round_to)


class _Search:
    """The state of a search: the sizes that fitted, all of them below the smallest that failed."""

    def __init__(
        self,
        fits: Callable[[int], bool],
        grid: BatchGrid,
        *,
        margin: float,
        tolerance: float,
        predict: Callable[[], float | None] | None,
        max_jump: float,
        max_trials: int,
    ) -> None:
        self.fits = fits
        self.grid = grid
        self.margin = margin
        self.tolerance = tolerance
        self.predict = predict
        self.max_jump = max_jump
        self.max_trials = max_trials
        self.trials: list[tuple[int, bool]] = []
        self.fitted: set[int] = set()
        self.failed = math.inf
        self.num_slow = 0
        self.last_gain = 0

    @property
    def best(self) -> int:
        """The largest size that fitted and was not dropped, 0 for none."""
        return max(self.fitted, default=0)

    @property
    def floor(self) -> int:
        """The next allowed size above the best."""
        return max(self.grid.up(self.best), self.grid.lowest)

    @property
    def ceiling(self) -> int:
        """The largest allowed size that may still fit."""
        return self.grid.highest if self.failed > self.grid.highest else self.grid.down(self.failed - 1)

    @property
    def is_known(self) -> bool:
        """Whether the limit is known."""
        if not self.best:
            return self.failed <= self.grid.lowest
        return self.best >= self.ceiling or self.failed - self.best <= self.tolerance * self.best

    @property
    def target(self) -> int:
        """The size to return: the best, less the margin if a larger size failed."""
        if self.failed == math.inf or not self.margin:
            return self.best
        return max(self.grid.down(self.best - int(self.best * self.margin)), self.grid.lowest)

    def run(self, first: int) -> BatchSearch:
        size: int | None = first
        while size is not None:
            self.try_size(size)
            size = self.next_size()
        if not self.best:
            return BatchSearch(None, tuple(self.trials), "nothing_fits" if self.is_known else "max_trials")
        ended: Ending = "max_trials" if not self.is_known else "max_val" if self.failed == math.inf else "failure"
        return BatchSearch(self.target if self.target in self.fitted else self.best, tuple(self.trials), ended)

    def try_size(self, size: int) -> None:
        best, failed = self.best, self.failed
        fitted = check_bool("fits()", self.fits(size))
        self.trials.append((size, fitted))
        if fitted:
            self.fitted.add(size)
        else:
            self.failed = size
            self.fitted = {other for other in self.fitted if other < size}
        # A trial is slow if doubling or bisection would have gained more.
        if failed == math.inf:
            is_slow = self.failed == math.inf and self.best < 2 * best
        else:
            is_slow = self.failed - self.best > (failed - best) / 2
        self.num_slow = self.num_slow + 1 if is_slow else 0
        self.last_gain = self.best - best

    def next_size(self) -> int | None:
        """The next size to run, or ``None`` to end."""
        left = self.max_trials - len(self.trials)
        reserved = 1 if self.best and self.failed < math.inf else 0  # for the last run of the target
        if left > reserved and not self.is_known:
            return self.predicted_size() or self.doubled_or_bisected()
        if not left or not self.best or self.trials[-1] == (self.target, True):
            return None
        return self.target

    def doubled_or_bisected(self) -> int:
        """Twice the best, or the middle of the best and the smallest that failed."""
        size = min(2 * self.best, self.ceiling) if self.failed == math.inf else (self.best + self.failed) // 2
        return max(self.grid.down(size), self.floor)

    def predicted_size(self) -> int | None:
        """The size that is expected to fit, or the next one above the best if that is expected to be the last.

        A prediction that gains little may be wrong. If no size has failed yet, the next steps then grow from small
        ones, since twice the best may need far more memory than there is. Otherwise bisection replaces the prediction.
        """
        if self.predict is None or (self.num_slow and self.failed < math.inf):
            return None
        expected = self.predict()
        if expected is None:
            return None
        if not is_number(expected):
            wrong_type("predict()", "a number, or None", expected)
        if not expected < self.failed:  # true for NaN too
            return None
        closing = self.grid.down(self.best * (1 + self.tolerance))  # if this size fails, the limit is known
        if self.failed == math.inf:
            expected = min(expected, self.max_jump * self.best)
            closing = max(closing, self.grid.down(self.best + 2 * self.last_gain) if self.num_slow > 1 else 0)
        return min(max(self.grid.down(max(expected, 0)), closing, self.floor), self.ceiling)
