"""The first valley of a loss curve: how deep it is, and where it is so and so far down."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lightning_hp.functional.lr_curve import Array, LossCurve

#: A dip is the first valley when it is at least this part of the deepest one; smaller ones are luck of the draw.
MIN_DEPTH = 0.2

#: The edge: so much of the fall is lost again.
LOST_AT_EDGE = 0.25


class Valley(NamedTuple):
    """The first valley of a curve.

    Attributes:
        log_lrs: log10 of the learning rates, shape (points,).
        smoothed: The smooth loss there, shape (points,).
        plateau: The loss before anything is learned.
        bottom: Index of the smallest smooth loss in the valley.
        signal: Depth in standard deviations of one loss.
    """

    log_lrs: Array
    smoothed: Array
    plateau: float
    bottom: int
    signal: float

    @property
    def fall(self) -> float:
        """Depth below the plateau."""
        return self.plateau - float(self.smoothed[self.bottom])

    def log_lr_at(self, share: float) -> float | None:
        """log10 of the rate below the bottom from which on more than ``share`` of the fall is done.

        The last crossing before the bottom, since a dip on the way there is noise; a straight line between two rates.
        """
        level = self.plateau - share * self.fall
        above = np.flatnonzero(self.smoothed[: self.bottom] > level)
        return self._between(int(above[-1]), level) if len(above) else None

    def log_lr_of_edge(self) -> float | None:
        """log10 of the first rate above the bottom where a quarter of the fall is lost again."""
        level = self.plateau - (1 - LOST_AT_EDGE) * self.fall
        above = np.flatnonzero(self.smoothed[self.bottom :] > level)
        return self._between(self.bottom + int(above[0]) - 1, level) if len(above) else None

    def _between(self, left: int, level: float) -> float:
        """Where the straight line from point ``left`` to the next crosses ``level``."""
        (x0, x1), (y0, y1) = self.log_lrs[left : left + 2], self.smoothed[left : left + 2]
        return float(x0 + (x1 - x0) * (level - y0) / (y1 - y0))


def first_valley(curve: LossCurve, min_signal: float) -> Valley:
    """The first dip that is as deep as ``min_signal`` and not a small part of the deepest; else the deepest.

    It ends where the curve is back on the plateau: what falls after that starts from a network that blew up.
    """
    depth = curve.plateau - curve.smoothed
    deep = depth >= max(MIN_DEPTH * float(depth.max()), min_signal * curve.noise)
    start = int(np.argmax(deep)) if deep.any() else int(np.argmax(depth))
    back = np.flatnonzero(depth[start:] <= 0)
    end = start + int(back[0]) if len(back) and back[0] > 0 else len(depth)
    bottom = start + int(np.argmax(depth[start:end]))
    signal = float(depth[bottom]) / curve.noise if curve.noise > 0 else (np.inf if depth[bottom] > 0 else 0.0)
    return Valley(curve.log_lrs, curve.smoothed, curve.plateau, bottom, signal)
