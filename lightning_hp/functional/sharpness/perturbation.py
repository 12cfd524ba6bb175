"""The perturbation of sharpness-aware minimization (SAM), for a training loop of your own.

One step of SAM (Foret et al., 2021) with weights w, loss L, radius rho and a base optimizer::

    g = gradient of L at w                  # first backward pass
    e = rho * g / |g|                       # |.| is the Euclidean norm over all parameters together
    copy w;  w = w + e                      # `Perturbation.ascend`
    g = gradient of L at w                  # second backward pass
    w = copy of w                           # `Perturbation.restore`
    w = optimizer_step(w, g)

Adaptive SAM (ASAM; Kwon et al., 2021) has another e. T is element-wise::

    T = |w| + eta  if w is a matrix or kernel (two or more dimensions),  else 1
    e = rho * T^2 g / |T g|
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_hp.functional.checks import check_bool, check_factor, wrong_value
from lightning_hp.functional.gradients import check_tensors, is_sharded, local_part, total_norm

_PARAMETERS = "an iterable of tensors, such as `model.parameters()` or `[model.head.weight]`"


class Perturbation:
    """Moves weights to w + e(w) along their gradients and restores w bit for bit: SAM for any training loop.

    The optimizer then gets the gradient at w + e(w). e(w) is rho g / |g|, where |g| is the norm of the gradients of all
    moved parameters together; with ``adaptive`` it is rho T²g / |Tg|, where T is |w| + eta for matrices and kernels and
    1 for biases and normalisation layers (parameters with at most one dimension).

    Gradients may be dense, sparse or sharded (``DTensor`` of FSDP2). The norm of sharded gradients is that of the whole
    gradient.

    Args:
        parameters: The parameters that the optimizer trains. :meth:`ascend` sets all their gradients to ``None``, so
            that the second backward pass starts without any.
        rho: Norm of the perturbation e(w), >= 0, in the unit of the weights (with ``adaptive`` relative to them). A
            sequence has one radius for each parameter: e is then rho_i g_i / |g| for parameter i, where |g| is the norm
            over all of them.
        adaptive: Whether e is scaled by the weights, so that rescaling the network does not change the sharpness.
        eta: Added to the absolute value of each weight in T, >= 0.
        only: Those of ``parameters`` to move; ``None``: all.

    Raises:
        TypeError: If an argument is of the wrong type. ``parameters`` and ``only`` have to be iterables of tensors: not
            a module, a single tensor, pairs of name and tensor, or parameter groups.
        ValueError: If ``rho`` or ``eta`` is negative or not finite, ``rho`` has another length than ``parameters``,
            there are no parameters to move, or some have no shape yet (lazy layers).

    Note:
        Takes one copy of the moved weights in memory, three passes over them in time (five with ``adaptive``), one
        all-reduce of one number for sharded gradients, and the second forward and backward pass of the loop. Does not
        synchronize with an accelerator. Weights of 16 bits have too few digits: most of them are not changed by the
        perturbation at the usual radius (see :meth:`share_unmoved`). BatchNorm updates its statistics and dropout draws
        a mask in both passes, unless the loop prevents it.

        w is restored from a copy, not by a subtraction: in floating point w + e - e differs from w. The memory of the
        copy is kept from step to step, since allocating it again in each step is slow; :meth:`release` frees it.

    References:
        Foret et al., *Sharpness-Aware Minimization for Efficiently Improving Generalization*, 2021. Kwon et al.,
        *ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural Networks*, 2021.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> sam = Perturbation(model.parameters(), rho=0.05)
        >>> for x in torch.ones(3, 8, 4):
        ...     model(x).square().mean().backward()
        ...     with sam.ascended():
        ...         model(x).square().mean().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()

    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        rho: float | Sequence[float] = 0.05,
        *,
        adaptive: bool = False,
        eta: float = 0.01,
        only: Iterable[Tensor] | None = None,
    ) -> None:
        self.parameters = check_tensors("parameters", parameters, _PARAMETERS)
        if any(map(is_lazy, self.parameters)):
            raise ValueError(
                "Expected initialized `parameters`, but got uninitialized ones of lazy layers. Run one batch through"
                " the model first."
            )
        radii = _check_radii(rho, len(self.parameters))
        self.rho = max(radii) if radii else check_factor("rho", rho, minimum=0)
        self.adaptive = check_bool("adaptive", adaptive)
        self.eta = check_factor("eta", eta, minimum=0)
        self._moving = list(self.parameters)
        if only is not None:
            chosen = {id(parameter) for parameter in check_tensors("only", only, f"{_PARAMETERS}, or None")}
            self._moving = [parameter for parameter in self.parameters if id(parameter) in chosen]
        if not self._moving:
            what = "parameters to move" if only is None else "some of `parameters` in `only`"
            raise ValueError(f"Expected {what}, but got none.")
        #: The radius of each parameter as a share of ``self.rho``, by the parameter's id; empty if all are one.
        self._shares: dict[int, float] = {}
        if self.rho > 0 and any(radius != self.rho for radius in radii):
            self._shares = {id(p): radius / self.rho for p, radius in zip(self.parameters, radii, strict=True)}
        self._is_sharded = any(is_sharded(parameter) for parameter in self._moving)
        self._copies: dict[int, Tensor] = {}  # the memory of each parameter's copy, by the parameter's id
        # The parameters that moved last, their copies and their sizes in bytes: the same ones usually move again.
        self._last: tuple[list[Tensor], list[Tensor], list[int]] = ([], [], [])
        self._moved: tuple[list[Tensor], list[Tensor]] = ([], [])  # weights that are at w + e(w); their copies of w

    @contextmanager
    def ascended(self, rho: float | None = None) -> Iterator[Tensor]:
        """A context in which the weights are w + e(w) and have no gradient. They are w again after it, or an error.

        Args:
            rho: The radius of this step, >= 0; ``None``: that of the constructor. If parameters have radii of their
                own, that of the largest; the others keep their ratio to it.

        Yields:
            The norm of the gradient at w (with ``adaptive`` of Tg), shape ``()``, on the device of the gradients.

        Raises:
            TypeError: If ``rho`` is no number.
            ValueError: If ``rho`` is negative or not finite.
            RuntimeError: If the weights are at w + e(w) already.

        """
        try:
            yield self.ascend(rho)
        finally:
            self.restore()

    @torch.no_grad()
    def ascend(self, rho: float | None = None) -> Tensor:
        """Moves the weights to w + e(w). Overwrites their gradients and sets all gradients to ``None``.

        Args:
            rho: The radius of this step, >= 0; ``None``: that of the constructor. If parameters have radii of their
                own, that of the largest; the others keep their ratio to it.

        Returns:
            The norm of the gradient at w (with ``adaptive`` of Tg), shape ``()``, on the device of the gradients.

        Raises:
            TypeError: If ``rho`` is no number.
            ValueError: If ``rho`` is negative or not finite.
            RuntimeError: If the weights are at w + e(w) already.

        Note:
            A parameter without a gradient does not move. None moves if the norm is zero or, on the CPU, not finite; on
            an accelerator a norm that is not finite makes the weights NaN until :meth:`restore`.

        """
        if self._moved[0]:
            raise RuntimeError(_ALREADY_PERTURBED)
        rho = self.rho if rho is None else check_factor("rho", rho, minimum=0, also="None")
        moving = self._moving
        gradients = [gradient for parameter in moving if (gradient := parameter.grad) is not None]
        if len(gradients) < len(moving):
            moving = [parameter for parameter in moving if parameter.grad is not None]
        has_sparse = any(gradient.is_sparse for gradient in gradients)
        if has_sparse:  # duplicate rows have to be summed before they are scaled
            gradients = [gradient.coalesce() if gradient.is_sparse else gradient for gradient in gradients]
        if self.adaptive:
            self._multiply_by_t(moving, gradients)
        norm = total_norm(gradients)
        if self.adaptive:
            self._multiply_by_t(moving, gradients)
        for parameter in self.parameters:
            parameter.grad = None
        if rho > 0 and moving:
            self._move(moving, gradients, rho / norm, has_sparse)
            # An autocast context around both passes would otherwise use its 16-bit copy of w in the second one.
            torch.clear_autocast_cache()
        return norm

    @torch.no_grad()
    def restore(self) -> None:
        """Restores w, bit for bit. Does nothing if the weights are w."""
        weights, copies = self._moved
        if weights:
            torch._foreach_copy_(weights, copies)
            self._moved = ([], [])
            torch.clear_autocast_cache()

    @torch.no_grad()
    def share_unmoved(self) -> Tensor:
        """The share of the weights that rounding kept at w. To be called between :meth:`ascend` and :meth:`restore`.

        Returns:
            The share, 0 to 1, shape ``()``, on the device of the weights; 0 if none was to move.

        Note:
            With bfloat16 weights and the usual ``rho`` of 0.05 it was over 0.9 for a large network.

        """
        weights, copies = self._moved
        if not weights:
            return torch.zeros(())
        unmoved = [(weight == copy).sum() for weight, copy in zip(weights, copies, strict=True)]
        return torch.stack(unmoved).sum() / max(sum(copy.numel() for copy in copies), 1)

    def release(self) -> None:
        """Frees the memory of the copy, for example before a validation; the next :meth:`ascend` allocates it again.

        Raises:
            RuntimeError: If the weights are at w + e(w): w could not be restored then.

        """
        if self._moved[0]:
            raise RuntimeError(_ALREADY_PERTURBED)
        self._copies, self._last = {}, ([], [], [])

    def _move(self, moving: list[Tensor], gradients: list[Tensor], scale: Tensor, has_sparse: bool) -> None:
        """Copies w and adds ``scale * g`` to it; on an accelerator without reading ``scale``."""
        alpha = None
        if scale.device.type == "cpu":
            alpha = float(scale)
            if not 0 < alpha < math.inf:  # the norm is not finite, or zero
                return
        if self._is_sharded:
            weights, gradients = list(map(local_part, moving)), list(map(local_part, gradients))
        else:
            weights = moving
        copies = self._copies_of(moving, weights)
        torch._foreach_copy_(copies, weights)
        self._moved = (weights, copies)
        if self._shares:
            _multiply(gradients, [self._shares[id(parameter)] for parameter in moving], has_sparse)
        _add_scaled(weights, gradients, alpha, scale, has_sparse)

    def _copies_of(self, moving: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
        """The memory for the copies of these parameters, of which ``weights`` are the local parts."""
        last, copies, sizes = self._last
        is_same = last is moving or (len(last) == len(moving) and all(map(operator.is_, last, moving)))
        if not is_same or not _is_like(copies[0], weights[0]) or sizes != [weight.nbytes for weight in weights]:
            copies = [self._copy_of(parameter, weight) for parameter, weight in zip(moving, weights, strict=True)]
            self._last = (moving, copies, [weight.nbytes for weight in weights])
        return copies

    def _copy_of(self, parameter: Tensor, weight: Tensor) -> Tensor:
        """The memory for the copy of this parameter."""
        copy = self._copies.get(id(parameter))
        if copy is None or not _is_like(copy, weight):
            copy = self._copies[id(parameter)] = torch.empty_like(weight)
        return copy

    def _multiply_by_t(self, moving: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Multiplies the gradients by T in place. The memory of the copies holds T meanwhile."""
        for parameter, gradient in zip(moving, gradients, strict=True):
            if parameter.ndim < 2:
                continue
            weight = local_part(parameter)
            if gradient.is_sparse:
                gradient.values().mul_(weight[tuple(gradient.indices())].abs().add_(self.eta))
            else:
                t = adaptive_scale(weight, self.eta, out=self._copy_of(parameter, weight))
                local_part(gradient).mul_(t)


def adaptive_scale(weight: Tensor, eta: float, out: Tensor | None = None) -> Tensor:
    """T of adaptive SAM: ``|w| + eta`` for matrices and kernels, 1 for parameters with at most one dimension.

    Args:
        weight: The weight.
        eta: Added to the absolute values.
        out: Memory for the result of a matrix or kernel; ``None``: new memory.

    Returns:
        T, of the shape of ``weight``.

    """
    return torch.ones_like(weight) if weight.ndim < 2 else torch.abs(weight, out=out).add_(eta)


_ALREADY_PERTURBED = "Expected weights at w, but they are at w + e(w): call `restore` first."


def _check_radii(rho: Any, number: int) -> list[float]:
    """The radius of each parameter; empty if ``rho`` is one number."""
    if isinstance(rho, str) or not isinstance(rho, Sequence):
        return []
    if len(rho) != number:
        wrong_value("rho", f"a number, or one for each of the {number} parameters", rho)
    return [check_factor(f"rho[{position}]", radius, minimum=0) for position, radius in enumerate(rho)]


def _multiply(gradients: list[Tensor], factors: list[float], has_sparse: bool) -> None:
    if has_sparse:
        for gradient, factor in zip(gradients, factors, strict=True):
            gradient.mul_(factor)
    else:
        torch._foreach_mul_(gradients, factors)


def _is_like(copy: Tensor, weight: Tensor) -> bool:
    return copy.shape == weight.shape and copy.dtype == weight.dtype and copy.device == weight.device


def _add_scaled(
    weights: list[Tensor], gradients: list[Tensor], alpha: float | None, scale: Tensor, has_sparse: bool
) -> None:
    """Adds ``scale * g`` to the weights without more memory; ``alpha`` is the scale as a number, where it is known."""
    if alpha is None:
        scale = torch.where(scale.isinf(), 0, scale)  # the norm is zero
    if has_sparse:
        pairs = list(zip(weights, gradients, strict=True))
        for weight, gradient in pairs:
            if gradient.is_sparse:
                weight.add_(gradient * scale) if alpha is None else weight.add_(gradient, alpha=alpha)
        weights = [weight for weight, gradient in pairs if not gradient.is_sparse]
        gradients = [gradient for gradient in gradients if not gradient.is_sparse]
    if not weights:
        return
    if alpha is None:
        torch._foreach_mul_(gradients, scale)
        torch._foreach_add_(weights, gradients)
    else:
        torch._foreach_add_(weights, gradients, alpha=alpha)
