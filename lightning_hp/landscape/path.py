"""The path of a training through the weight space: copies of the weights, evenly spaced, never more than a number."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class TrainingPath:
    """Copies of the weights in host memory.

    When there are too many, every second one is dropped, and the distance between two of them doubles.

    Args:
        max_points: The most copies, at least 2.
        every: Optimizer steps from one copy to the next.

    """

    def __init__(self, max_points: int, every: int = 1) -> None:
        self._max_points = max_points
        self._every = every
        self._points: list[tuple[int, list[Tensor]]] = []

    def show(self, parameters: Sequence[Tensor], step: int) -> None:
        """Copies the weights after ``step`` optimizer steps, if it is time."""
        if self._points and step < self._points[-1][0] + self._every:
            return
        if len(self._points) == self._max_points:
            self._points = self._points[::2]
            self._every *= 2
            if step < self._points[-1][0] + self._every:
                return
        self._points.append((step, [parameter.detach().to("cpu", copy=True) for parameter in parameters]))

    def before(self, step: int) -> list[list[Tensor]]:
        """The copies from before ``step``."""
        return [copies for at, copies in self._points if at < step]
