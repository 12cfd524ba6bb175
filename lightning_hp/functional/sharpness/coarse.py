"""A loss surface from a quarter of its points: bicubic interpolation of the logarithm of the loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_hp.functional.checks import check_array, check_int
from lightning_hp.functional.sharpness.weights import check_coordinates

# A bicubic spline needs four points along each axis.
_MIN_POINTS = 4


def coarse_points(num_x: int, num_y: int) -> list[int]:
    """The points of a surface in every second row and column.

    Args:
        num_x: Number of columns, odd and at least 7.
        num_y: Number of rows, odd and at least 7.

    Returns:
        Indices into the flattened surface of shape ``(num_y, num_x)``, for ``points`` of :func:`loss_surface`.

    Raises:
        TypeError: If a number is no int.
        ValueError: If it is even or less than 7: the last row or column would be extrapolated.

    Example:
        >>> len(coarse_points(21, 21)), coarse_points(7, 9)[:5]
        (121, [0, 2, 4, 6, 14])

    """
    for name, number in (("num_x", num_x), ("num_y", num_y)):
        if check_int(name, number, 2 * _MIN_POINTS - 1, 10_001) % 2 == 0:
            raise ValueError(f"Expected `{name}` to be odd, so that the last one is a second one, but got {number}.")
    return [row * int(num_x) + column for row in range(0, num_y, 2) for column in range(0, num_x, 2)]


def fill_surface(x: ArrayLike, y: ArrayLike, surface: ArrayLike) -> NDArray[np.float64]:
    """Interpolates the points of a loss surface that were not evaluated.

    The finest complete grid of every second, fourth, ... row and column is interpolated by a bicubic spline of the
    logarithm of the loss. All evaluated points keep their values.

    Args:
        x: The coordinates of the columns, increasing, shape ``(num_x,)``.
        y: The coordinates of the rows, increasing, shape ``(num_y,)``.
        surface: The losses, shape ``(num_y, num_x)``; NaN where none was evaluated.

    Returns:
        The losses without NaN, of the same shape.

    Raises:
        TypeError: If an argument does not hold numbers.
        ValueError: If shapes do not fit, coordinates do not increase, or no complete grid with at least four rows and
            columns has finite losses above zero.

    Note:
        The logarithm is smoother than the loss, which often grows by orders of magnitude. On 21 x 21 points around a
        convolutional network on MNIST the mean relative error is below 1 %; the largest one is up to 15 %, at the edge
        of a steep wall. ``benchmarks/landscapes.py`` measures it.

    Example:
        >>> x = np.linspace(-1, 1, 9)
        >>> exact = np.exp(x[None] ** 2 + x[:, None] ** 2)
        >>> surface = np.full((9, 9), np.nan)
        >>> surface[::2, ::2] = exact[::2, ::2]
        >>> bool(np.allclose(fill_surface(x, x, surface), exact))
        True

    """
    x, y = check_coordinates("x", x), check_coordinates("y", y)
    what = "losses of shape (num_y, num_x)"
    surface = check_array("surface", surface, what)
    if surface.shape != (len(y), len(x)):
        raise ValueError(f"Expected `surface` to be {what}, {(len(y), len(x))}, but got shape {surface.shape}.")
    for name, values in (("x", x), ("y", y)):
        if (np.diff(values) <= 0).any():
            raise ValueError(f"Expected `{name}` to increase, but got {values.tolist()[:8]}.")
    missing = np.isnan(surface)
    if not missing.any():
        return surface.copy()
    stride = _stride(surface)
    if not stride:
        raise ValueError(
            "Expected `surface` to hold a complete grid of every second (fourth, ...) row and column, at least 4 x 4,"
            " of finite losses above zero, but got none; evaluate more points."
        )
    from scipy.interpolate import RectBivariateSpline  # type: ignore[import-untyped]

    spline = RectBivariateSpline(y[::stride], x[::stride], np.log(surface[::stride, ::stride]))
    with np.errstate(over="ignore"):
        return np.where(missing, np.exp(spline(y, x)), surface)


def is_fillable(surface: NDArray[np.float64]) -> bool:
    """Whether :func:`fill_surface` can interpolate from every second row and column."""
    return _stride(surface) == 2 or not np.isnan(surface).any()


def _stride(surface: NDArray[np.float64]) -> int:
    """The distance of the rows and columns of the finest usable grid; 0 if there is none."""
    stride = 2
    while all((size - 1) // stride + 1 >= _MIN_POINTS for size in surface.shape):
        part = surface[::stride, ::stride]
        if all((size - 1) % stride == 0 for size in surface.shape) and np.isfinite(part).all() and (part > 0).all():
            return stride
        stride *= 2
    return 0
