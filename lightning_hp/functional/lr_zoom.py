"""The falling part of a range test: where a second, closer look is worth its steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lightning_hp.functional.lr_suggestion import LRSuggestion

#: The fall begins where so much of it is done.
BEGUN = 0.1


def falling_part(lrs: ArrayLike, suggestion: LRSuggestion) -> tuple[float, float] | None:
    """The learning rates between which the loss of a range test falls: for a second, zoomed sweep over them.

    Args:
        lrs: Learning rates of the sweep, shape (steps,).
        suggestion: What :func:`suggest_lr` read from it.

    Returns:
        The last rate at which less than a tenth of the fall is done, and the edge where the loss rises again, or the
        end of what was reached; ``None`` if the curve supports no suggestion.

    Costs nothing. Does not help where the whole sweep is a fall: the part is then the sweep.

    Source: the second look is advised by H. Homaei Rad, *Hyperparameters for Deep Neural Networks*, 2022.

    Example:
        >>> from lightning_hp.functional import lr_range, suggest_lr
        >>> lrs = lr_range(1e-6, 10, 99)
        >>> losses = 2.3 - 2 / (1 + 1e-3 / lrs) + (lrs / 0.3) ** 4
        >>> low, high = falling_part(lrs, suggest_lr(lrs, losses))
        >>> f"{low:.5f} to {high:.2f}"
        '0.00008 to 0.16'

    """
    if suggestion.lr is None:
        return None
    rates = np.asarray(lrs, dtype=np.float64)
    reached = np.flatnonzero(np.isfinite(suggestion.smoothed))
    high = float(rates[reached[-1]]) if suggestion.edge is None else suggestion.edge
    inside = reached[rates[reached] <= high]
    smoothed = suggestion.smoothed[inside]
    bottom = int(np.argmin(smoothed))
    level = suggestion.plateau - BEGUN * (suggestion.plateau - smoothed[bottom])
    before = np.flatnonzero(smoothed[: bottom + 1] > level)
    return float(rates[inside[before[-1]]] if len(before) else rates[0]), high
