"""Measures the landscape of a loss: its surfaces, the path through them, curvature, and its rise at some distances."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_hp.functional.sharpness.coarse import coarse_points, fill_surface, is_fillable
from lightning_hp.functional.sharpness.directions import random_directions
from lightning_hp.functional.sharpness.hessian import hessian_eigenvalues
from lightning_hp.functional.sharpness.rise import ascent_rise, random_rise
from lightning_hp.functional.sharpness.surface import loss_surface
from lightning_hp.functional.sharpness.trajectory import pca_directions
from lightning_hp.landscape.settings import LandscapeSettings
from lightning_hp.results.landscape import LandscapeResult, Rise

#: The surface around a path is wider than the path by this share on each side.
_MARGIN = 0.25


class NoLandscapeError(RuntimeError):
    """There is no landscape of the kind that was asked for."""


@dataclass(frozen=True)
class Share:
    """The share of this process in the points of a surface.

    Attributes:
        rank: Its rank.
        world_size: Number of processes.
        add: Adds numbers over all processes.

    """

    rank: int = 0
    world_size: int = 1
    add: Callable[[list[float]], list[float]] = lambda values: values


@dataclass(frozen=True)
class Path:
    """Where a training has been.

    Attributes:
        weights: The weights that may have moved, also those that are frozen now.
        points: Their earlier values.

    """

    weights: Sequence[Tensor]
    points: Sequence[Sequence[Tensor]]


@dataclass(frozen=True)
class _Plane:
    """Two directions, the weights that move along them, and the coordinates."""

    weights: Sequence[Tensor]
    directions: Sequence[Sequence[Tensor]]
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def measure(
    loss: Any,
    parameters: Iterable[Tensor],
    settings: LandscapeSettings,
    *,
    path: Path | None = None,
    share: Share | None = None,
    advance: Callable[[], None] = lambda: None,
    num_frozen: int = 0,
    **fields: Any,
) -> LandscapeResult:
    """Measures the landscape of a loss around the present weights.

    Args:
        loss: The loss, such as a ``BatchLoss``.
        parameters: The weights that are trained.
        settings: What is measured.
        path: The path of the training; needed with ``directions="trajectory"``.
        share: The share of this process.
        advance: Called for each point of a surface.
        num_frozen: Number of weights of the model that are not trained, and do not move.
        **fields: Further fields of the result.

    Raises:
        NoLandscapeError: If the path spans no plane, or there is no Hessian.

    """
    started, share = time.monotonic(), share or Share()
    weights = list(parameters)
    notes: list[str] = []
    loss, center = evaluated(loss)
    if not math.isfinite(center):
        if settings.directions == "hessian":
            raise NoLandscapeError("the loss of the model is not finite, so its Hessian has no eigenvectors")
        settings = replace(settings, num_eigenvalues=0, radii=())
        notes.append("The loss of the model is not finite: it has no curvature and no rise.")
    if num_frozen:
        total = num_frozen + sum(weight.numel() for weight in weights)
        notes.append(f"{num_frozen} of {total} weights are frozen and do not move.")
    eigenvalues, vectors = _eigenvalues(loss, weights, settings, notes)
    coordinates = explained = None
    if settings.directions == "hessian":
        planes = [_plane(weights, vectors, settings)]
    elif path is not None:
        try:
            found = pca_directions([*path.points, [weight.detach().cpu() for weight in path.weights]])
        except ValueError as error:
            raise NoLandscapeError(f"the path of the training spans no plane: {error}") from error
        coordinates, explained = found.coordinates, _pair(found.explained_variance_ratio)
        x, y = (_around_path(column, settings) for column in coordinates.T)
        planes = [_Plane(path.weights, found.directions, x, y)]
    else:
        directions = random_directions(weights, 2 * settings.num_pairs, seed=settings.seed)
        if not any(bool(part.any()) for direction in directions for part in direction):
            notes.append("No weight moves: directions move weights of two and more dimensions that are not zero.")
        planes = [_plane(weights, directions[2 * i : 2 * i + 2], settings) for i in range(settings.num_pairs)]
    counted = _Counted(loss, advance)
    surfaces = tuple(_surface(counted, center, plane, settings, share, len(planes), notes) for plane in planes)
    return LandscapeResult(
        x=planes[0].x,
        y=planes[0].y,
        surfaces=surfaces,
        path=coordinates,
        explained_variance=explained,
        directions=settings.directions,
        batch_norm=settings.batch_norm,
        seed=settings.seed,
        eigenvalues=eigenvalues,
        rises=tuple(_rise(loss, weights, radius, settings) for radius in settings.radii),
        seconds=time.monotonic() - started,
        notes=tuple(notes),
        **fields,
    )


def evaluated(loss: Any) -> tuple[Any, float]:
    """The loss as a function that can be called with and without autograd, and its present value.

    Args:
        loss: The loss. It may take derivatives itself, as a gradient penalty does.

    """
    try:
        with torch.inference_mode():
            return loss, float(loss())
    except RuntimeError as error:
        if "grad" not in str(error):
            raise
    loss = _Differentiating(loss)
    with torch.inference_mode():
        return loss, float(loss())


class _Differentiating:
    """A loss that needs autograd within it, also where the caller does not."""

    def __init__(self, loss: Any) -> None:
        self._loss = loss
        if hasattr(loss, "parts"):
            self.parts = loss.parts

    def __call__(self) -> Any:
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            return self._loss()
        with torch.inference_mode(False), torch.enable_grad():
            return torch.as_tensor(self._loss()).detach()


class _Counted:
    """A loss that says when it was evaluated."""

    def __init__(self, loss: Any, advance: Callable[[], None]) -> None:
        self._loss, self._advance = loss, advance

    def __call__(self) -> Any:
        value = self._loss()
        self._advance()
        return value


def _eigenvalues(
    loss: Any, weights: list[Tensor], settings: LandscapeSettings, notes: list[str]
) -> tuple[tuple[float, ...] | None, list[list[Tensor]]]:
    """The leading eigenvalues of the Hessian and their vectors; two at least if they are the directions."""
    is_needed = settings.directions == "hessian"
    count = min(max(settings.num_eigenvalues, 2 * is_needed), sum(weight.numel() for weight in weights))
    if not count:
        return None, []
    try:
        found = hessian_eigenvalues(loss, weights, count, seed=settings.seed)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).splitlines()[0]
        if is_needed:
            raise NoLandscapeError(f"the Hessian has no eigenvectors: {reason}") from error
        # An operation without a second derivative, or one that is not finite.
        notes.append(f"No eigenvalues: {reason}")
        return None, []
    return tuple(map(float, found.values[: settings.num_eigenvalues])), found.vectors


def _plane(weights: Sequence[Tensor], directions: Sequence[Sequence[Tensor]], settings: LandscapeSettings) -> _Plane:
    axis = np.linspace(-1, 1, settings.resolution) * (settings.radius or 1.0)
    return _Plane(weights, directions, axis, axis)


def _around_path(coordinates: NDArray[np.float64], settings: LandscapeSettings) -> NDArray[np.float64]:
    """Evenly spaced coordinates around those of a path; one of them is 0, where the path ends."""
    if settings.radius is not None:
        return np.linspace(-1, 1, settings.resolution) * settings.radius
    low, high = min(0.0, coordinates.min()), max(0.0, coordinates.max())
    margin = _MARGIN * (high - low) or 1.0
    step = (high - low + 2 * margin) / (settings.resolution - 1)
    before = round((margin - low) / step)
    return np.asarray(step * np.arange(-before, settings.resolution - before))


def _pair(shares: NDArray[np.float64]) -> tuple[float, float]:
    first, second = shares.tolist()
    return first, second


def _surface(
    loss: Any,
    center: float,
    plane: _Plane,
    settings: LandscapeSettings,
    share: Share,
    num_planes: int,
    notes: list[str],
) -> NDArray[np.float64]:
    size = settings.resolution**2
    chosen = coarse_points(settings.resolution, settings.resolution) if settings.coarse else list(range(size))
    budget = None if settings.budget is None else settings.budget / num_planes

    def evaluate(points: Sequence[int]) -> NDArray[np.float64]:
        mine = points[share.rank :: share.world_size]
        surface = loss_surface(loss, plane.weights, plane.directions, plane.x, plane.y, points=mine, budget=budget)
        known = ~np.isnan(surface)
        numbers = share.add([*np.where(known, surface, 0.0).ravel().tolist(), *known.ravel().astype(float).tolist()])
        sums, counts = np.array(numbers[:size]), np.array(numbers[size:])
        return np.where(counts > 0, sums, np.nan).reshape(surface.shape)

    surface = evaluate(chosen)
    if settings.coarse and not is_fillable(surface):
        others = evaluate(sorted(set(range(size)) - set(chosen)))
        surface = np.where(np.isnan(surface), others, surface)
    missing = int(np.isnan(surface.flat[chosen]).sum())
    if missing and budget is not None:
        notes.append(f"{len(chosen) - missing} of {len(chosen)} points within {settings.budget:.3g} s.")
    surface[np.abs(plane.y).argmin(), np.abs(plane.x).argmin()] = center
    if (settings.coarse or budget is not None) and np.isnan(surface).any():
        with suppress(ValueError):  # too few points, or losses that are not above zero
            surface = fill_surface(plane.x, plane.y, surface)
    return surface


def _rise(loss: Any, weights: list[Tensor], radius: float, settings: LandscapeSettings) -> Rise:
    random = random_rise(loss, weights, radius, seed=settings.seed)
    return Rise(radius, ascent_rise(loss, weights, radius), random.mean, random.worst)
