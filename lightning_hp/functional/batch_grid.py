"""The batch sizes that may be used: all, multiples of a number, or powers of two."""

from __future__ import annotations

from typing import Literal, NamedTuple

from lightning_hp.functional.checks import check_whole

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
