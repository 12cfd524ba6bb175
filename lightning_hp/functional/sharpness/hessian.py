"""The curvature of the loss: products with its Hessian, leading eigenvalues, trace.

A product with the Hessian H takes a second backward pass (Pearlmutter, 1994)::

    g = gradient of L at w, with its graph
    H v = gradient of (g . v) at w, with v constant
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_hp.functional.checks import check_choice, check_int, check_number
from lightning_hp.functional.sharpness.weights import (
    Direction,
    Loss,
    RandomStates,
    check_direction,
    check_loss,
    check_parameters,
    parts_of,
    scalar_of,
)

# The eigenvalues of a Hessian this small are computed from the whole matrix.
_MAX_DENSE = 32

_WHICH = {"largest": "LA", "smallest": "SA", "magnitude": "LM"}

# Lanczos vectors before the first test of convergence. The largest eigenvalues of a Hessian stand apart and need few;
# the smallest ones lie close together.
_MIN_VECTORS = {"LA": 6, "SA": 20, "LM": 6}


@dataclass(frozen=True)
class HessianEigenvalues:
    """Eigenvalues of the Hessian and their vectors, from :func:`hessian_eigenvalues`.

    Attributes:
        values: The eigenvalues, shape ``(count,)``, the most extreme one first.
        vectors: For each eigenvalue its vector, a list of tensors with the shapes of the weights, of norm 1.
        num_products: Number of Hessian-vector products that were computed.

    """

    values: NDArray[np.float64]
    vectors: list[Direction] = field(repr=False)
    num_products: int


@dataclass(frozen=True)
class HessianTrace:
    """An estimate of the trace of the Hessian, from :func:`hessian_trace`.

    Attributes:
        value: The estimate.
        standard_error: The standard error of the estimate.
        num_samples: Number of random vectors.

    """

    value: float
    standard_error: float
    num_samples: int


def hessian_product(loss: Loss, parameters: Iterable[Tensor], vector: Iterable[Tensor]) -> Direction:
    """The product of the loss's Hessian and a vector.

    Args:
        loss: A function without arguments that returns the loss at the present weights, a tensor of one number, with
            its graph; see :class:`BatchLoss`. If it has a method ``parts``, as that class has, its parts are summed one
            by one, in the memory of one.
        parameters: The weights, which require a gradient. Their ``.grad`` is neither read nor written.
        vector: The vector: a tensor for each parameter, of its shape.

    Returns:
        The product, a list of tensors with the shapes of ``parameters``.

    Raises:
        TypeError: If an argument is of the wrong type, or ``loss`` returns no number.
        ValueError: If shapes do not fit, a parameter requires no gradient, or ``loss`` does not depend on any of them.
        RuntimeError: If a part of ``loss`` has no second derivative.

    Note:
        Costs about two forward and backward passes, and memory for the graph of both. Attention runs in torch's plain
        form, since the fused ones have no second derivative. A parameter without influence has zeros.

    References:
        Pearlmutter, *Fast Exact Multiplication by the Hessian*, 1994.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> hessian_product(lambda: w[0] ** 2 * w[1], [w], [torch.tensor([1.0, 0.0])])
        [tensor([4., 2.])]

    """
    loss, weights = check_loss(loss), check_parameters(parameters, differentiable=True)
    return _Products(loss, weights)(check_direction("vector", vector, weights))


def hessian_eigenvalues(
    loss: Loss,
    parameters: Iterable[Tensor],
    count: int = 1,
    *,
    which: Literal["largest", "smallest", "magnitude"] = "largest",
    tolerance: float = 1e-3,
    max_products: int = 1000,
    seed: int = 0,
) -> HessianEigenvalues:
    """The most extreme eigenvalues of the loss's Hessian, with their vectors.

    Args:
        loss: A function without arguments that returns the loss at the present weights, as for
            :func:`hessian_product`.
        parameters: The weights, which require a gradient. Their ``.grad`` is neither read nor written.
        count: Number of eigenvalues, 1 to 100, and no more than there are weights.
        which: ``"largest"``: the largest ones, the curvature at a minimum; ``"smallest"``: the smallest ones, negative
            at a saddle; ``"magnitude"``: those of largest absolute value.
        tolerance: Relative accuracy of the eigenvalues, > 0 and < 1.
        max_products: Number of Hessian-vector products after which the search is given up, >= 1.
        seed: Seed of the vector that the search starts from, >= 0.

    Returns:
        The eigenvalues and their vectors, which are directions for :func:`loss_surface`.

    Raises:
        TypeError: If an argument is of the wrong type, or ``loss`` returns no number.
        ValueError: If a number is out of range, or a product is not finite.
        RuntimeError: If the eigenvalues are not accurate enough after ``max_products``.

    Note:
        SciPy's Lanczos method ``eigsh`` needs about 10 products for the largest eigenvalue, more for several or for the
        smallest, and memory for 2 ``count`` + 2 vectors (at least 6, for the smallest 20) on the CPU. The graph of the
        first derivatives is kept between products if the loss has one part, and built anew for each product otherwise.
        The state of torch's random generators is the same in each product and restored at the end. Float32 limits the
        accuracy to about 1e-5.

    Example:
        >>> w = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> found = hessian_eigenvalues(lambda: (torch.tensor([1.0, 5.0, 2.0]) * w**2).sum(), [w], 2)
        >>> found.values.tolist()
        [10.0, 4.0]
        >>> found.vectors[0][0].abs()
        tensor([0., 1., 0.])

    """
    loss, weights = check_loss(loss), check_parameters(parameters, differentiable=True)
    size = sum(weight.numel() for weight in weights)
    count = check_int("count", count, 1, min(100, size))
    kind = _WHICH[check_choice("which", which, tuple(_WHICH))]
    tolerance = check_number("tolerance", tolerance, above=0, below=1)
    max_products = check_int("max_products", max_products, 1)
    start = np.random.Generator(np.random.PCG64(check_int("seed", seed, 0))).standard_normal(size)

    product = _Products(loss, weights, keep_graph=True)

    def matvec(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        if product.count >= max_products:
            raise RuntimeError(
                f"Expected {count} eigenvalue{'s' * (count > 1)} of the Hessian within {max_products} products to a"
                f" relative accuracy of {tolerance:g}, but they have not converged; give a larger `max_products` or"
                " `tolerance`."
            )
        result = flatten(product(unflatten(vector, weights)))
        product.is_zero &= not result.any()
        if not np.isfinite(result).all():
            raise ValueError("Expected finite second derivatives of `loss`, but got infinite or NaN ones.")
        return result

    if size <= _MAX_DENSE or count > size // 2:
        values, vectors = _dense(matvec, size, count, kind)
    else:
        from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh  # type: ignore[import-untyped]

        operator = LinearOperator((size, size), matvec=lambda vector: matvec(vector.reshape(-1)), dtype=np.float64)
        num_vectors = min(max(2 * count + 2, _MIN_VECTORS[kind]), size)
        try:
            values, vectors = eigsh(
                operator, k=count, which=kind, v0=start, ncv=num_vectors, tol=tolerance, maxiter=max_products
            )
        except ArpackError:
            if not product.is_zero:
                raise
            values, vectors = np.zeros(count), np.eye(size, count)  # the loss is linear: every vector is one
    order = {"LA": np.argsort(-values), "SA": np.argsort(values), "LM": np.argsort(-np.abs(values))}[kind]
    return HessianEigenvalues(values[order], [unflatten(vectors[:, k], weights) for k in order], product.count)


def hessian_trace(loss: Loss, parameters: Iterable[Tensor], num_samples: int = 32, *, seed: int = 0) -> HessianTrace:
    """An estimate of the trace of the loss's Hessian, the sum of its eigenvalues, with its standard error.

    Args:
        loss: A function without arguments that returns the loss at the present weights, as for
            :func:`hessian_product`.
        parameters: The weights, which require a gradient. Their ``.grad`` is neither read nor written.
        num_samples: Number of random vectors v, each of signs; the estimate is the mean of v H v. 2 to 100,000.
        seed: Seed of a generator of its own, >= 0.

    Returns:
        The estimate.

    Raises:
        TypeError: If an argument is of the wrong type, or ``loss`` returns no number.
        ValueError: If a number is out of range.

    Note:
        Costs one Hessian-vector product a sample. The standard error falls with the square root of ``num_samples``.

    References:
        Hutchinson, *A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian Smoothing Splines*, 1989.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> hessian_trace(lambda: 3 * w[0] ** 2 + w[1] ** 2, [w], 4)
        HessianTrace(value=8.0, standard_error=0.0, num_samples=4)

    """
    loss, weights = check_loss(loss), check_parameters(parameters, differentiable=True)
    num_samples = check_int("num_samples", num_samples, 2, 100_000)
    generator = torch.Generator().manual_seed(check_int("seed", seed, 0))
    product = _Products(loss, weights, keep_graph=True)
    samples = []
    for _ in range(num_samples):
        signs = [
            torch.randint(2, weight.shape, generator=generator).mul_(2).sub_(1).to(weight.device, weight.dtype)
            for weight in weights
        ]
        samples.append(_dot(signs, product(signs)))
    values = np.array([float(sample) for sample in samples])
    return HessianTrace(float(values.mean()), float(values.std(ddof=1) / math.sqrt(num_samples)), num_samples)


class _Products:
    """Products of a Hessian and vectors."""

    def __init__(self, loss: Loss, weights: Sequence[Tensor], *, keep_graph: bool = False) -> None:
        self._loss = loss
        self._weights = list(weights)
        self._keeps_graph = keep_graph
        self._gradient: list[Tensor] | None = None
        self.count = 0
        self.is_zero = True

    def __call__(self, vector: Sequence[Tensor]) -> Direction:
        self.count += 1
        vector = [one.to(weight.dtype) for one, weight in zip(vector, self._weights, strict=True)]
        state = RandomStates(self._weights)
        try:
            if self._gradient is not None:
                return self._product(self._gradient, vector, keep=True)
            parts = parts_of(self._loss)
            # torch may return one tensor for several weights, so a product is never written to.
            total = [torch.zeros_like(weight, requires_grad=False) for weight in self._weights]
            for part in parts:
                state.restore()
                gradient = self._gradient_of(part)
                keep = self._keeps_graph and len(parts) == 1
                product = self._product(gradient, vector, keep=keep)
                if keep:
                    self._gradient = gradient
                torch._foreach_add_(total, product)
            return total
        finally:
            state.restore()

    def _gradient_of(self, part: Callable[[], Any]) -> list[Tensor]:
        with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            gradient = gradient_of(part, self._weights, create_graph=True)[1]
        if self.count == 1:
            _refuse_once_differentiable(gradient)
        return gradient

    def _product(self, gradient: Sequence[Tensor], vector: Sequence[Tensor], *, keep: bool) -> Direction:
        pairs = [(g, v) for g, v in zip(gradient, vector, strict=True) if g.requires_grad]
        if not pairs:  # no part of the loss depends on these weights
            return [torch.zeros_like(weight) for weight in self._weights]
        outputs, cotangents = zip(*pairs, strict=True)
        return list(
            torch.autograd.grad(
                outputs, self._weights, cotangents, retain_graph=keep, allow_unused=True, materialize_grads=True
            )
        )


def _refuse_once_differentiable(gradient: Sequence[Tensor]) -> None:
    """Raises an error if a part of a gradient has no derivative; torch would leave that part out."""
    seen, waiting = set[Any](), [one.grad_fn for one in gradient]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if type(node).__name__ == "Error":
            raise RuntimeError(
                "Expected `loss` to have a second derivative, but one of its functions is marked `once_differentiable`."
            )
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]


def gradient_of(
    part: Callable[[], Any], weights: Sequence[Tensor], *, create_graph: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """The value of a loss, or a part of it, and its gradient; ``.grad`` stays as it is.

    Raises:
        ValueError: If it does not depend on any of the weights through autograd.

    """
    value = scalar_of(part())
    if not value.requires_grad:
        raise ValueError(
            "Expected `loss` to return a tensor with a graph to `parameters`, but it depends on none of them; return"
            " the loss without `detach`, `item` and `no_grad`."
        )
    # A factor of one that requires a gradient, without which torch takes a function marked `once_differentiable` for
    # linear. With it there is a node that stands for its missing derivative.
    one = torch.ones_like(value).requires_grad_(create_graph)
    gradient = torch.autograd.grad(
        value, list(weights), one, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return value.detach(), list(gradient)


def flatten(tensors: Sequence[Tensor]) -> NDArray[np.float64]:
    """Tensors as one vector on the CPU."""
    parts = [tensor.detach().reshape(-1).cpu().double().numpy() for tensor in tensors]
    return np.concatenate(parts)


def unflatten(vector: NDArray[np.float64], like: Sequence[Tensor]) -> Direction:
    """One vector as tensors with the shapes, types and devices of others."""
    pieces = np.split(vector, np.cumsum([tensor.numel() for tensor in like])[:-1])
    return [
        torch.from_numpy(piece.copy()).reshape(tensor.shape).to(tensor.dtype).to(tensor.device)
        for piece, tensor in zip(pieces, like, strict=True)
    ]


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    wide = [torch.promote_types(a.dtype, torch.float32) for a in one]
    return torch.stack([(a.to(w) * b.to(w)).sum() for a, b, w in zip(one, other, wide, strict=True)]).sum()


def _dense(
    matvec: Callable[[NDArray[np.float64]], NDArray[np.float64]], size: int, count: int, kind: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same from the whole matrix, for few weights."""
    matrix = np.stack([matvec(row) for row in np.eye(size)])
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    key = {"LA": -values, "SA": values, "LM": -np.abs(values)}[kind]
    chosen = np.argsort(key)[:count]
    return values[chosen], vectors[:, chosen]
