"""Climb to w + e(w), the place where sharpness-aware minimization takes its gradient, and come back exactly."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from lightning_hp.functional.checks import check_radius
from lightning_hp.functional.gradients import gradient_norm, is_sharded, local_part
from lightning_hp.functional.sharpness.storage_swap import LARGE_BYTES, can_exchange, count_users

_ITSELF_AND_PARAMETER = 2


class Perturbation:
    """Moves weights to w + e(w) along their gradients, and back to the very same bits: SAM for any loop, in five lines.

    e(w) = rho g / |g| over all parameters together, or with ``adaptive`` e(w) = rho T²g / |Tg| with T = |w| + eta on
    matrices and kernels and T = 1 on biases and normalisation layers (parameters with at most one dimension). What the
    optimizer then gets is the gradient at w + e(w).

    The way back is w itself, which was kept, never a subtraction: w + e - e is not w in floating point. The second
    memory stays, since fresh memory in each step is what makes the usual form slow; :meth:`release` frees it. w is
    copied into it, or, for a large parameter on the CPU whose memory nobody else looks at, the parameter lies there
    meanwhile.

    Gradients may be dense, sparse, or sharded (``DTensor`` of FSDP2; the norm is then that of the whole gradient, at
    one small all-reduce). On an accelerator nothing is read back, so nothing waits.

    Args:
        parameters: Those that the optimizer trains. :meth:`ascend` takes all their gradients away, so that the second
            backward pass starts from none.
        rho: Radius of the ball, >= 0, in the weights' own unit (with ``adaptive`` relative to them).
        adaptive: Scales e by the weights, so that rescaling the network does not change the sharpness.
        eta: What T adds to the size of a weight, >= 0.
        only: Those of the parameters to move; ``None`` for all.

    Raises:
        ValueError: If ``rho`` or ``eta`` is negative or not finite, or there are no parameters.
        TypeError: If ``parameters`` or ``only`` are not tensors in a row: a module, a single tensor, pairs of name and
            tensor, or groups of an optimizer.

    Costs one copy of the moved weights in memory, three passes over them in time (five with ``adaptive``), and in the
    loop a second forward and backward pass. Does not help with weights of 16 bits, most of which are too coarse to move
    by so little. In a loop of your own, BatchNorm statistics are updated and dropout masks are drawn in both passes.

    Source: Foret et al., *Sharpness-Aware Minimization for Efficiently Improving Generalization*, 2021; adaptive: Kwon
    et al., *ASAM: Adaptive Sharpness-Aware Minimization*, 2021.

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
        rho: float = 0.05,
        *,
        adaptive: bool = False,
        eta: float = 0.01,
        only: Iterable[Tensor] | None = None,
    ) -> None:
        check_radius("rho", rho)
        check_radius("eta", eta)
        self.parameters = _tensors("parameters", parameters)
        chosen = None if only is None else {id(parameter) for parameter in _tensors("only", only)}
        self._moving = [p for p in self.parameters if chosen is None or id(p) in chosen]
        if not self._moving:
            raise ValueError("Expected parameters to move, but got none.")
        self._is_sharded = any(is_sharded(parameter) for parameter in self._moving)
        self.rho = rho
        self.adaptive = adaptive
        self.eta = eta
        self._has_large: bool | None = None
        self._kept: dict[int, Tensor] = {}
        # What moved last, its copies, found at once, and their sizes in bytes.
        self._last: tuple[list[Tensor], list[Tensor], list[int]] = ([], [], [])
        self._moved: tuple[list[Tensor], list[Tensor]] = ([], [])  # the weights that are away from home; their copies
        self._exchanged: list[tuple[Tensor, Tensor, Tensor]] = []  # parameters, their own memory, that they lie in

    @contextmanager
    def ascended(self, rho: float | None = None) -> Iterator[Tensor]:
        """Inside the block the weights are w + e(w) and have no gradient; after it, whatever happens, they are w.

        Args:
            rho: The radius of this step; ``None`` for that of the construction.

        Yields:
            The norm of the gradient at w (with ``adaptive`` of Tg), shape ``()``, on the device.

        """
        try:
            yield self.ascend(rho)
        finally:
            self.restore()

    @torch.no_grad()
    def ascend(self, rho: float | None = None) -> Tensor:
        """Moves the weights to w + e(w), uses up their gradients and sets all gradients to ``None``.

        A parameter without a gradient stays, as all do when the norm is zero or, on the CPU, not finite; on an
        accelerator a norm that is not finite makes the weights NaN until :meth:`restore`.

        Args:
            rho: The radius of this step; ``None`` for that of the construction.

        Returns:
            The norm of the gradient at w (with ``adaptive`` of Tg), shape ``()``, on the device.

        Raises:
            RuntimeError: If the weights are away already.

        """
        if self._is_away:
            raise RuntimeError("Expected weights at w, but they are at w + e(w) already: call `restore` first.")
        rho = self.rho if rho is None else rho
        moving = self._moving
        gradients = [gradient for parameter in moving if (gradient := parameter.grad) is not None]
        if len(gradients) < len(moving):
            moving = [parameter for parameter in moving if parameter.grad is not None]
        has_sparse = any(gradient.is_sparse for gradient in gradients)
        if has_sparse:
            # What a sparse gradient says of a row that it lists twice is known only when it is added up.
            gradients = [gradient.coalesce() if gradient.is_sparse else gradient for gradient in gradients]
        if self.adaptive:
            self._times_t(moving, gradients)
        norm = gradient_norm(gradients)
        if self.adaptive:
            self._times_t(moving, gradients)
        for parameter in self.parameters:
            parameter.grad = None
        if rho > 0 and moving:
            self._climb(moving, gradients, rho / norm, has_sparse)
            torch.clear_autocast_cache()  # else an autocast around both passes would use w in the second
        return norm

    @torch.no_grad()
    def restore(self) -> None:
        """Puts the weights back to w, bit for bit. Nothing happens if they are there."""
        if not self._is_away:
            return
        weights, copies = self._moved
        if weights:
            torch._foreach_copy_(weights, copies)
            self._moved = ([], [])
        while self._exchanged:
            parameter, own, there = self._exchanged[-1]
            if count_users(there) > _ITSELF_AND_PARAMETER:  # a view was taken there: it is to be the parameter's
                there.copy_(own)
                self._kept[id(parameter)] = own
            else:
                parameter.data = own
            increment_version(parameter)
            self._exchanged.pop()  # last, so that an interrupt loses nothing
        torch.clear_autocast_cache()  # of the weights, if one autocast is around both passes

    @torch.no_grad()
    def share_unmoved(self) -> Tensor:
        """Share of the weights that rounding kept where they are although they should have moved, shape ``()``.

        To be asked between :meth:`ascend` and :meth:`restore`.

        Source: measured by us; with weights in bfloat16 and the usual rho of 0.05 it is over nine tenths.
        """
        pairs = [*zip(*self._moved, strict=True), *((there, own) for _, own, there in self._exchanged)]
        same = [(there == home).sum() for there, home in pairs]
        total = sum(home.numel() for _, home in pairs)
        return torch.stack(same).sum() / max(total, 1) if same else torch.zeros(())

    def release(self) -> None:
        """Frees the memory of the copy, say before a validation; the next :meth:`ascend` takes it again.

        Raises:
            RuntimeError: If the weights are away: the copy is their only way back.

        """
        if self._is_away:
            raise RuntimeError("Expected weights at w, but they are at w + e(w): call `restore` first.")
        self._kept, self._last = {}, ([], [], [])

    @property
    def _is_away(self) -> bool:
        return bool(self._moved[0] or self._exchanged)

    def _climb(self, moving: list[Tensor], gradients: list[Tensor], scale: Tensor, has_sparse: bool) -> None:
        """Adds scale * g to w; on an accelerator without reading ``scale`` back."""
        alpha = None
        if scale.device.type == "cpu":
            alpha = float(scale)
            if not 0 < alpha < math.inf:  # no gradient, or one that overflowed
                return
            if self._has_large is None:
                self._has_large = any(parameter.nbytes >= LARGE_BYTES for parameter in self._moving)
            if self._has_large:
                moving, gradients = self._exchange(moving, gradients, alpha)
        if moving:
            weights = self._local(moving)
            copies = self._copies_of(moving, weights)
            torch._foreach_copy_(copies, weights)
            self._moved = (weights, copies)
            _add(weights, self._local(gradients), alpha, scale, has_sparse)

    def _exchange(
        self, moving: list[Tensor], gradients: list[Tensor], alpha: float
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Gives parameters other memory, with w + e(w) in it, where nobody can tell; returns those that are left."""
        left: tuple[list[Tensor], list[Tensor]] = ([], [])
        for parameter, gradient in zip(moving, gradients, strict=True):
            if can_exchange(parameter, gradient):
                there = self._copy_of(parameter, parameter)
                if there.stride() == parameter.stride():
                    torch.add(parameter, gradient, alpha=alpha, out=there)
                    self._exchanged.append((parameter, parameter.data, there))
                    parameter.data = there
                    increment_version(parameter)  # whoever asks whether it was written is to hear so
                    continue
            left[0].append(parameter)
            left[1].append(gradient)
        return left

    def _local(self, tensors: list[Tensor]) -> list[Tensor]:
        return [local_part(tensor) for tensor in tensors] if self._is_sharded else tensors

    def _copies_of(self, moving: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
        """The memory that keeps these parameters' w."""
        last, copies, sizes = self._last
        is_same = last is moving or (len(last) == len(moving) and all(map(operator.is_, last, moving)))
        if not is_same or not _is_like(copies[0], weights[0]) or sizes != [weight.nbytes for weight in weights]:
            copies = [self._copy_of(parameter, weight) for parameter, weight in zip(moving, weights, strict=True)]
            self._last = (moving, copies, [weight.nbytes for weight in weights])
        return copies

    def _copy_of(self, parameter: Tensor, weight: Tensor) -> Tensor:
        """The memory that keeps this parameter's w."""
        kept = self._kept.get(id(parameter))
        if kept is None or not _is_like(kept, weight):
            kept = self._kept[id(parameter)] = torch.empty_like(weight)
        return kept

    def _times_t(self, moving: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Multiplies the gradients by T in their own memory; the memory of the copy holds T meanwhile."""
        for parameter, gradient in zip(moving, gradients, strict=True):
            weight = local_part(parameter)
            if parameter.ndim < 2:
                continue
            if gradient.is_sparse:
                gradient.values().mul_(weight[tuple(gradient.indices())].abs().add_(self.eta))
            else:
                t = torch.abs(weight, out=self._copy_of(parameter, weight)).add_(self.eta)
                local_part(gradient).mul_(t)


def _tensors(name: str, given: Any) -> list[Tensor]:
    """The tensors in what was given for parameters."""
    advice = "give `model.parameters()`, or for some of them `[model.head.weight, model.head.bias]`"
    if isinstance(given, (Tensor, nn.Module)) or not isinstance(given, Iterable):
        raise TypeError(f"Expected `{name}` to be an iterable of tensors, but got a {type(given).__name__}: {advice}.")
    tensors = list(given)
    for position, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"Expected `{name}` to hold tensors, but got a {type(tensor).__name__} at position {position}:"
                f" {advice}."
            )
    return tensors


def _is_like(kept: Tensor, weight: Tensor) -> bool:
    return kept.shape == weight.shape and kept.dtype == weight.dtype and kept.device == weight.device


def _add(weights: list[Tensor], gradients: list[Tensor], alpha: float | None, scale: Tensor, has_sparse: bool) -> None:
    """Adds scale * g to w, without memory of its own; ``alpha`` is the scale, if it is known."""
    if alpha is None:
        scale = torch.where(scale.isinf(), 0, scale)  # no gradient
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
