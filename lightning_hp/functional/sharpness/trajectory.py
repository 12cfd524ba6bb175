"""The plane in which a training moved: principal components of its checkpoints, through their Gram matrix.

For n checkpoints w_1 ... w_n of P weights each, with n much smaller than P::

    X = rows w_i - w_n                          # never as a whole: in chunks of columns
    K = X X^T                                   # n x n, summed in float64
    U, lambda = eigenvectors, eigenvalues of K, centred
    direction_k = X^T U_k / sqrt(lambda_k)      # a second pass over the chunks
    coordinates_k = K U_k / sqrt(lambda_k)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_hp.functional.checks import check_int, check_iterable
from lightning_hp.functional.gradients import check_tensors
from lightning_hp.functional.sharpness.weights import (
    Direction,
    check_direction,
    check_directions,
    check_parameters,
)

# Numbers of one chunk: 8 MB in float64.
_CHUNK = 1 << 20

# Components below this share of the largest one are rounding errors of the Gram matrix.
_MIN_SHARE = 1e-12

_CHECKPOINTS = "checkpoints, each a list of tensors"


@dataclass(frozen=True)
class PCADirections:
    """The plane in which a training moved, from :func:`pca_directions`.

    Attributes:
        directions: The components, each a list of tensors with the shapes of the weights, of norm 1 and orthogonal.
        explained_variance_ratio: The share of each component in the variance of the checkpoints, shape ``(count,)``,
            falling.
        coordinates: Where the checkpoints lie, relative to the last one, shape ``(num_checkpoints, count)``.

    """

    directions: list[Direction] = field(repr=False)
    explained_variance_ratio: NDArray[np.float64]
    coordinates: NDArray[np.float64] = field(repr=False)


def pca_directions(checkpoints: Iterable[Iterable[Tensor]], count: int = 2) -> PCADirections:
    """The principal components of a training's checkpoints, as directions around the last one.

    Args:
        checkpoints: The weights at several times, each a list of tensors of the same shapes. The last one is the origin
            of the coordinates: the weights around which the surface is evaluated. They are only read; tensors that are
            memory-mapped (``torch.load(..., mmap=True)``) are read chunk by chunk.
        count: Number of components, 1 to 100.

    Returns:
        The directions, the variance that they explain, and the path of the training in their plane.

    Raises:
        TypeError: If ``checkpoints`` are no lists of dense floating-point tensors.
        ValueError: If the shapes differ, or the checkpoints do not span ``count`` dimensions: that takes at least
            ``count`` + 1 of them.

    Note:
        Takes two passes over the checkpoints and memory for one chunk and the directions. The variance is that around
        the mean of the checkpoints. The signs are such that the first checkpoint has no negative coordinate. The first
        components of a random walk explain most of its variance too (60 % for the first), so a high share is not a
        finding; see Antognini and Sohl-Dickstein, 2018.

    References:
        Li et al., *Visualizing the Loss Landscape of Neural Nets*, 2018.

    Example:
        >>> steps = [[torch.tensor([4.0, 0.0, 0.0])], [torch.tensor([1.0, 0.5, 0.0])], [torch.zeros(3)]]
        >>> plane = pca_directions(steps)
        >>> plane.explained_variance_ratio.round(3).tolist(), plane.coordinates[0].round(2).tolist()
        ([0.983, 0.017], [4.0, 0.16])

    """
    several = _check_checkpoints(checkpoints)
    count = check_int("count", count, 1, 100)
    if len(several) <= count:
        raise ValueError(f"Expected at least {count + 1} `checkpoints` for {count} directions, but got {len(several)}.")
    gram = np.zeros((len(several), len(several)))
    for chunk in _chunks(several, several[-1]):
        gram += (chunk @ chunk.T).numpy()
    centred = gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()
    if not np.isfinite(centred).all():
        raise ValueError("Expected finite `checkpoints`, but got infinite or NaN weights; leave these out.")
    values, vectors = np.linalg.eigh((centred + centred.T) / 2)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    if not values[-1] > _MIN_SHARE * max(values[0], 0):
        raise ValueError(
            f"Expected `checkpoints` that span {count} dimensions, but got {len(several)} that do not; take more of"
            " them, or a smaller `count`."
        )
    scaled = vectors / np.sqrt(values)
    coordinates = gram @ scaled
    signs = np.where(coordinates[0] < 0, -1.0, 1.0)
    columns = torch.from_numpy(scaled * signs)
    parts = [columns.T @ chunk for chunk in _chunks(several, several[-1])]
    directions = [_unflatten([part[number] for part in parts], several[-1]) for number in range(count)]
    return PCADirections(directions, values / np.trace(centred), coordinates * signs)


def project_weights(
    checkpoints: Iterable[Iterable[Tensor]], origin: Iterable[Tensor], directions: Iterable[Iterable[Tensor]]
) -> NDArray[np.float64]:
    """Where weights lie in a plane: the coordinates of the nearest point, such that w is about origin + sum of a_k d_k.

    Args:
        checkpoints: The weights at several times, each a list of tensors of the shapes of ``origin``.
        origin: The weights at the origin of the plane.
        directions: The directions of the plane, not necessarily orthogonal.

    Returns:
        The coordinates, shape ``(num_checkpoints, num_directions)``.

    Raises:
        TypeError: If an argument is no list of dense floating-point tensors.
        ValueError: If shapes differ, or the directions are linearly dependent.

    Note:
        A trajectory lies almost outside of a random plane: its projection stays near the origin. Use
        :func:`pca_directions` to draw a path.

    Example:
        >>> axes = [[torch.tensor([1.0, 0.0, 0.0])], [torch.tensor([1.0, 1.0, 0.0])]]
        >>> project_weights([[torch.tensor([3.0, 2.0, 7.0])]], [torch.zeros(3)], axes).tolist()
        [[1.0, 2.0]]

    """
    centre = check_parameters(origin, name="origin")
    several = [
        check_direction(f"checkpoints[{number}]", one, centre)
        for number, one in enumerate(check_iterable("checkpoints", checkpoints, _CHECKPOINTS))
    ]
    moves = check_directions("directions", directions, centre)
    if not several or not moves:
        raise ValueError(f"Expected `{'directions' if several else 'checkpoints'}` to hold some, but got none.")
    products, squares = np.zeros((len(several), len(moves))), np.zeros((len(moves), len(moves)))
    for chunk, axes in zip(_chunks(several, centre), _chunks(moves, None, len(several)), strict=True):
        products += (chunk @ axes.T).numpy()
        squares += (axes @ axes.T).numpy()
    lengths = np.sqrt(np.diag(squares))
    if not (lengths > 0).all() or np.linalg.cond(squares / np.outer(lengths, lengths)) > 1 / _MIN_SHARE:
        raise ValueError("Expected `directions` that are linearly independent, but one is zero or a sum of others.")
    return np.asarray(np.linalg.solve(squares, products.T).T, np.float64)


def _check_checkpoints(checkpoints: Iterable[Iterable[Tensor]]) -> list[list[Tensor]]:
    several = check_iterable("checkpoints", checkpoints, _CHECKPOINTS)
    if not several:
        raise ValueError("Expected `checkpoints` to hold some, but got none.")
    last = check_parameters(several[-1], name=f"checkpoints[{len(several) - 1}]")
    *others, _ = several
    checked = []
    for number, one in enumerate(others):
        tensors = check_tensors(f"checkpoints[{number}]", one)
        checked.append(check_direction(f"checkpoints[{number}]", tensors, last))
    return [*checked, [tensor.detach() for tensor in last]]


def _chunks(rows: Sequence[Sequence[Tensor]], origin: Sequence[Tensor] | None, num_rows: int = 0) -> Iterator[Tensor]:
    """Rows of weights minus the origin, some columns at a time, in float64 on the CPU."""
    width = max(_CHUNK // (num_rows or len(rows)), 1)
    for position, first in enumerate(rows[0]):
        flat = [row[position].reshape(-1) for row in rows]
        for start in range(0, first.numel(), width):
            part = slice(start, start + width)
            # A device without float64 has to be left first.
            stacked = torch.stack([one[part] for one in flat]).cpu().double()
            yield stacked if origin is None else stacked.sub_(origin[position].reshape(-1)[part].cpu().double())


def _unflatten(parts: Sequence[Tensor], like: Sequence[Tensor]) -> Direction:
    flat = torch.cat(list(parts))
    pieces = torch.split(flat, [tensor.numel() for tensor in like])
    return [
        piece.reshape(tensor.shape).to(tensor.dtype).to(tensor.device)
        for piece, tensor in zip(pieces, like, strict=True)
    ]
