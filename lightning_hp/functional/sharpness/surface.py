"""The loss along a line, along the path between two sets of weights, and over a plane of the weight space."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lightning_hp.functional.checks import check_bool, check_int, check_iterable, check_number
from lightning_hp.functional.sharpness.coarse import coarse_points, fill_surface, is_fillable
from lightning_hp.functional.sharpness.weights import (
    Direction,
    Loss,
    check_coordinates,
    check_direction,
    check_directions,
    check_loss,
    check_parameters,
    losses_at,
)


def loss_line(
    loss: Loss, parameters: Iterable[Tensor], direction: Iterable[Tensor], coordinates: ArrayLike
) -> NDArray[np.float64]:
    """The loss at w + a d, for each coordinate a.

    Args:
        loss: A function without arguments that returns the loss at the present weights, a tensor of one number; see
            :class:`BatchLoss`.
        parameters: The weights w, which move in place and are restored.
        direction: The direction d: a tensor for each parameter, of its shape.
        coordinates: The coordinates a, shape ``(n,)``.

    Returns:
        The losses, shape ``(n,)``. Those that are not finite stay as they are.

    Raises:
        TypeError: If an argument is of the wrong type, or ``loss`` returns no number.
        ValueError: If shapes do not fit, or ``loss`` returns several numbers.

    Note:
        See :func:`loss_surface`.

    Example:
        >>> w = torch.tensor([3.0, 4.0])
        >>> loss_line(lambda: w.square().sum(), [w], [torch.tensor([1.0, 0.0])], [-3, 0, 1]).tolist()
        [16.0, 25.0, 32.0]

    """
    loss, weights = check_loss(loss), check_parameters(parameters)
    moves = [check_direction("direction", direction, weights)]
    points = [(a,) for a in check_coordinates("coordinates", coordinates).tolist()]
    return losses_at(loss, weights, lambda w, point: _add(w, moves, point), points)


def loss_path(
    loss: Loss, parameters: Iterable[Tensor], end: Iterable[Tensor], coordinates: ArrayLike
) -> NDArray[np.float64]:
    """The loss on the straight path from the present weights w to other weights: at w + t (end - w).

    Args:
        loss: A function without arguments that returns the loss at the present weights, a tensor of one number; see
            :class:`BatchLoss`.
        parameters: The weights w, which move in place and are restored.
        end: The weights at the end of the path: a tensor for each parameter, of its shape.
        coordinates: The coordinates t, shape ``(n,)``: 0 is exactly w, 1 exactly ``end``.

    Returns:
        The losses, shape ``(n,)``. Those that are not finite stay as they are.

    Raises:
        TypeError: If an argument is of the wrong type, or ``loss`` returns no number.
        ValueError: If shapes do not fit, or ``loss`` returns several numbers.

    Note:
        Only parameters are interpolated. The running statistics of BatchNorm belong to one end of the path; use those
        of each batch (``BatchLoss(..., batch_norm="batch")``).

    References:
        Goodfellow et al., *Qualitatively Characterizing Neural Network Optimization Problems*, 2015.

    Example:
        >>> w = torch.tensor([1.0])
        >>> loss_path(lambda: w.square().sum(), [w], [torch.tensor([3.0])], [0, 0.5, 1]).tolist()
        [1.0, 4.0, 9.0]

    """
    loss, weights = check_loss(loss), check_parameters(parameters)
    others = [
        other.to(weight.dtype) for other, weight in zip(check_direction("end", end, weights), weights, strict=True)
    ]
    points = check_coordinates("coordinates", coordinates).tolist()
    return losses_at(loss, weights, lambda w, t: torch._foreach_lerp_(w, others, t), points)


def loss_surface(
    loss: Loss,
    parameters: Iterable[Tensor],
    directions: Iterable[Iterable[Tensor]],
    x: ArrayLike,
    y: ArrayLike,
    *,
    points: Iterable[int] | None = None,
    coarse: bool = False,
    budget: float | None = None,
) -> NDArray[np.float64]:
    """The loss at w + x d1 + y d2, for each pair of coordinates.

    Args:
        loss: A function without arguments that returns the loss at the present weights, a tensor of one number; see
            :class:`BatchLoss`.
        parameters: The weights w, which move in place and are restored.
        directions: The two directions d1 and d2, each a tensor for each parameter, of its shape, as from
            :func:`random_directions`, :func:`pca_directions` or :func:`hessian_eigenvalues`.
        x: The coordinates along d1, shape ``(num_x,)``.
        y: The coordinates along d2, shape ``(num_y,)``.
        points: The points to evaluate, as indices into the flattened surface, 0 to num_x * num_y - 1; ``None``: all.
            The processes of a distributed training share a surface with ``range(rank, num_x * num_y, world_size)``.
        coarse: Whether only every second row and column is evaluated, a quarter of the points, and the rest
            interpolated (see :func:`fill_surface`). Needs odd ``num_x`` and ``num_y`` of at least 7, in increasing
            order. If a loss is not finite and above zero, all points are evaluated. Not with ``points``.
        budget: Seconds after which no further point begins, > 0; ``None``: no limit. The points are then evaluated from
            coarse to fine, so that what is there is a complete coarser surface; :func:`fill_surface` interpolates it.

    Returns:
        The losses, shape ``(num_y, num_x)``, as ``matplotlib``'s ``contour(x, y, ...)`` takes them. Losses that are not
        finite stay as they are. Points that were not evaluated are NaN.

    Raises:
        TypeError: If an argument is of the wrong type, or ``loss`` returns no number.
        ValueError: If shapes do not fit, or ``loss`` returns several numbers.

    Note:
        The weights move in place: one copy of them is the only further memory. Each point is written from the copy, so
        the loss at (0, 0) is exactly the loss at w. Weights and torch's random state are restored bit for bit, also
        after an error or Ctrl-C; a model that draws random numbers draws the same ones at every point. The losses are
        read from the device once, at the end; with ``budget`` after each point. ``loss`` runs under
        ``torch.inference_mode``. With weights of 16 bits the rounded points differ from those of the grid.

    References:
        Li et al., *Visualizing the Loss Landscape of Neural Nets*, 2018.

    Example:
        >>> w = torch.tensor([0.0, 0.0])
        >>> plane = [[torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 1.0])]]
        >>> loss_surface(lambda: (w * torch.tensor([1.0, 10.0])).sum(), [w], plane, [0, 1, 2], [0, 1]).tolist()
        [[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]]

    """
    loss, weights = check_loss(loss), check_parameters(parameters)
    moves = check_directions("directions", directions, weights)
    if len(moves) != 2:
        raise ValueError(f"Expected `directions` to hold two directions, but got {len(moves)}.")
    x, y = check_coordinates("x", x), check_coordinates("y", y)
    if budget is not None:
        budget = check_number("budget", budget, above=0, also="None")
    indices = _check_points(points, len(x) * len(y))
    if check_bool("coarse", coarse):
        if points is not None:
            raise ValueError(
                "Expected either `points` or `coarse`, but got both; give `points` some of `coarse_points` and use"
                " `fill_surface` on the gathered surface."
            )
        indices = coarse_points(len(x), len(y))
        for name, values in (("x", x), ("y", y)):
            if (np.diff(values) <= 0).any():
                raise ValueError(f"Expected increasing `{name}` for `coarse`, but got {values.tolist()[:8]}.")

    surface = np.full((len(y), len(x)), np.nan)
    started = time.monotonic()

    def evaluate(chosen: Sequence[int], seconds: float | None) -> bool:
        if seconds is not None:
            chosen = sorted(chosen, key=lambda index: -_level(index, len(x)))
        rows, columns = np.unravel_index(np.asarray(chosen, dtype=np.int64), surface.shape)
        coordinates = list(zip(x[columns].tolist(), y[rows].tolist(), strict=True))
        losses = losses_at(loss, weights, lambda w, point: _add(w, moves, point), coordinates, seconds)
        surface.flat[list(chosen[: len(losses)])] = losses
        return len(losses) == len(chosen)

    if not indices:
        return surface
    is_whole = evaluate(indices, budget)
    if coarse and is_whole:
        if is_fillable(surface):
            return fill_surface(x, y, surface)
        left = None if budget is None else budget - (time.monotonic() - started)
        if left is None or left > 0:
            evaluate(sorted(set(range(surface.size)) - set(indices)), left)
    return surface


def _add(weights: list[Tensor], directions: Sequence[Direction], coordinates: Sequence[float]) -> None:
    for direction, coordinate in zip(directions, coordinates, strict=True):
        if coordinate:
            torch._foreach_add_(weights, direction, alpha=coordinate)


def _check_points(points: Any, size: int) -> list[int]:
    if points is None:
        return list(range(size))
    chosen = check_iterable("points", points, "indices into the flattened surface", also="None")
    indices = [check_int(f"points[{number}]", point, 0, size - 1) for number, point in enumerate(chosen)]
    return list(dict.fromkeys(indices))


def _level(index: int, num_x: int) -> int:
    """How coarse the coarsest grid with this point is: the largest power of two that divides its row and its column."""
    row, column = divmod(index, num_x)
    both = row | column
    return both & -both if both else 1 << 62
