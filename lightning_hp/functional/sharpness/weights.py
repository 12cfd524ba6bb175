"""Evaluates a loss at many points of the weight space, in place, and restores weights and random state bit for bit.

::

    copy = w
    for each point:
        w = copy + a d1 + b d2                  # always from the copy: no rounding is carried along
        losses.append(loss())                   # stays on the device
    w = copy                                    # also after an error and after Ctrl-C
    read all losses at once
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_hp.functional.checks import (
    check_array,
    check_callable,
    check_iterable,
    is_number,
    wrong_type,
    wrong_value,
)
from lightning_hp.functional.gradients import check_tensors, is_sharded

Loss = Callable[[], Any]
Direction = list[Tensor]

PARAMETERS = "an iterable of tensors, such as `model.parameters()`"
_LOSS = "a function without arguments that returns the loss"
_Point = TypeVar("_Point")


def losses_at(
    loss: Loss,
    parameters: Sequence[Tensor],
    write: Callable[[list[Tensor], list[Tensor], _Point], None],
    points: Sequence[_Point],
    budget: float | None = None,
) -> NDArray[np.float64]:
    """The losses at several points.

    Args:
        loss: The loss at the present weights.
        parameters: The weights that move.
        write: Gets the tensors of the weights, a copy of w and a point, and sets the weights to that point.
        points: The points.
        budget: Seconds after which no further point is evaluated; ``None``: no limit. The first point always is. With
            a budget each loss is read at once, which waits for an accelerator.

    Returns:
        The losses, as many as points were evaluated.

    """
    weights = data_of(parameters)
    with torch.no_grad():
        copies = [weight.clone() for weight in weights]
    state, losses, end = RandomStates(parameters), Losses(len(points), weights[0].device), None
    try:
        with torch.inference_mode():
            for number, point in enumerate(points):
                if number:
                    state.restore()
                elif budget is not None:
                    end = time.monotonic() + budget
                write(weights, copies, point)
                torch.clear_autocast_cache()  # an autocast context around all would keep its 16-bit copy of w
                value = value_of(loss)
                losses.append(value)
                if end is not None and _time_after(value) >= end:
                    break
                del value
    finally:
        restore(weights, copies, state)
    return losses.read()


def restore(weights: Sequence[Tensor], copies: Sequence[Tensor], state: RandomStates) -> None:
    """Writes the copies into the weights and restores the random states, also if a second Ctrl-C comes just now.

    Args:
        weights: The data of the weights.
        copies: Their values.
        state: The random states.

    """
    is_restored = False
    try:
        copy_into(weights, copies)
        is_restored = True
    finally:
        if not is_restored:
            copy_into(weights, copies)
        state.restore()
        torch.clear_autocast_cache()


class Losses:
    """Losses that stay on their device until they are read.

    Their memory is allocated before the first forward pass. A small tensor for each, allocated between those of the
    forward passes, keeps the allocator from using the same memory for all of them: a small network was a quarter
    slower.
    """

    def __init__(self, number: int, device: torch.device) -> None:
        self._number = 0
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._values = torch.empty(number, dtype=dtype, device=device)

    def append(self, value: Tensor) -> None:
        """Copies a tensor of shape ``()``."""
        self._values[self._number] = value
        self._number += 1

    def read(self) -> NDArray[np.float64]:
        """All numbers; waits for the device once."""
        array: NDArray[np.float64] = self._values[: self._number].cpu().double().numpy()
        return array


def _time_after(value: Tensor) -> float:
    """The time when a value is there; an accelerator computes it later than it is asked for."""
    float(value)
    return time.monotonic()


def data_of(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The memory of parameters without autograd: a graph that was built before stays valid when w is restored."""
    return [parameter.data for parameter in parameters]


def copy_into(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Sets all weights."""
    with torch.no_grad():
        torch._foreach_copy_(list(weights), list(values))


def write_along(
    weights: Sequence[Tensor], start: Sequence[Tensor], direction: Sequence[Tensor], coordinate: float
) -> None:
    """Sets the weights to ``start + coordinate * direction``; to exactly ``start`` at 0."""
    if not coordinate:
        copy_into(weights, start)
    elif weights[0].device.type == "cpu":
        # One pass over the memory; torch's function for many tensors has none that writes elsewhere.
        for weight, one, d in zip(weights, start, direction, strict=True):
            torch.add(one, d, alpha=coordinate, out=weight)
    else:
        copy_into(weights, start)
        torch._foreach_add_(list(weights), list(direction), alpha=coordinate)


def value_of(loss: Loss) -> Tensor:
    """One evaluation, as a tensor of shape ``()``, on its device.

    Raises:
        TypeError: If the loss is no tensor and no number.
        ValueError: If it is not one real number.

    """
    return scalar_of(loss()).detach()


def scalar_of(value: Any) -> Tensor:
    """The result of a loss as a tensor of shape ``()``, with its graph."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex() or value.device.type == "meta":
            raise ValueError(
                f"Expected `loss` to return a tensor of one real number, but got one of shape {tuple(value.shape)} and"
                f" {value.dtype} on {value.device}; average it over the samples."
            )
        return value.reshape(())
    if is_number(value):
        return torch.tensor(float(value), dtype=torch.float64)
    raise TypeError(
        f"Expected `loss` to return a tensor of one number, but got {type(value).__name__}; return the loss itself."
    )


class RandomStates:
    """The state of torch's global generators on the CPU and on the devices of some tensors, for :meth:`restore`."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        devices = {tensor.device for tensor in tensors if tensor.device.type not in ("cpu", "meta")}
        self._cpu = torch.get_rng_state()
        self._others = [(device, torch.get_device_module(device).get_rng_state(device)) for device in devices]

    def restore(self) -> None:
        """Restores the state; can be called any number of times."""
        torch.set_rng_state(self._cpu)
        for device, state in self._others:
            torch.get_device_module(device).set_rng_state(state, device)


def check_loss(loss: Any) -> Loss:
    """The function of the loss.

    Raises:
        TypeError: If it cannot be called.

    """
    return check_callable("loss", loss, what=_LOSS)


def check_parameters(parameters: Any, *, differentiable: bool = False, name: str = "parameters") -> list[Tensor]:
    """The weights that move.

    Args:
        parameters: What came.
        differentiable: Whether a gradient is needed.
        name: The argument, for the message.

    Returns:
        The weights as a list.

    Raises:
        TypeError: If it is no iterable of tensors, or one of them does not hold floating-point numbers, is
            sparse or sharded.
        ValueError: If there are none, one is given twice, has no memory (lazy, meta) or requires no gradient.

    """
    tensors = check_tensors(name, parameters, PARAMETERS)
    if not tensors:
        raise ValueError(f"Expected `{name}` to hold tensors, but got none.")
    if len({id(tensor) for tensor in tensors}) < len(tensors):
        raise ValueError(f"Expected `{name}` to hold each tensor once, but one came twice; it would move twice.")
    for position, tensor in enumerate(tensors):
        one = f"{name}[{position}]"
        if is_lazy(tensor) or tensor.device.type == "meta":
            raise ValueError(f"Expected `{one}` to hold numbers, but it has no memory yet; run one batch first.")
        check_whole(one, tensor)
        if differentiable and not tensor.requires_grad:
            raise ValueError(f"Expected `{one}` to require a gradient, but it is frozen; leave it out.")
    return tensors


def check_whole(name: str, tensor: Tensor) -> None:
    """A dense tensor of real floating-point numbers on one device.

    Raises:
        TypeError: If it is another one.

    """
    if is_sharded(tensor):
        raise TypeError(
            f"Expected `{name}` to be a whole tensor, but got a sharded one (DTensor); gather the weights of FSDP in a"
            " model of their own first."
        )
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        wrong_type(name, "a dense tensor of real floating-point numbers", tensor)


def check_direction(name: str, direction: Any, parameters: Sequence[Tensor]) -> Direction:
    """A direction in the space of the weights, on their devices.

    Args:
        name: The argument, for the message.
        direction: What came.
        parameters: The weights.

    Returns:
        The direction as a list of tensors without autograd.

    Raises:
        TypeError: If it is no iterable of dense floating-point tensors.
        ValueError: If the number of tensors, or a shape, is not that of the weights.

    """
    tensors = check_tensors(name, direction, "an iterable of tensors, one for each parameter")
    if len(tensors) != len(parameters):
        raise ValueError(
            f"Expected `{name}` to hold {len(parameters)} tensors, one a parameter, but got {len(tensors)}."
        )
    for position, (tensor, parameter) in enumerate(zip(tensors, parameters, strict=True)):
        check_whole(f"{name}[{position}]", tensor)
        if tensor.shape != parameter.shape or tensor.device.type == "meta":
            raise ValueError(
                f"Expected `{name}[{position}]` to have the shape {tuple(parameter.shape)} of its parameter, but got"
                f" {tuple(tensor.shape)} on {tensor.device}."
            )
    return [tensor.detach().to(parameter.device) for tensor, parameter in zip(tensors, parameters, strict=True)]


def check_directions(name: str, directions: Any, parameters: Sequence[Tensor]) -> list[Direction]:
    """Several directions."""
    several = check_iterable(name, directions, "directions, each a list of tensors, one for each parameter")
    return [check_direction(f"{name}[{number}]", direction, parameters) for number, direction in enumerate(several)]


def check_coordinates(name: str, coordinates: Any) -> NDArray[np.float64]:
    """Finite numbers of shape ``(n,)``, at least one.

    Raises:
        TypeError: If it holds anything but numbers.
        ValueError: If the shape is another, or a number is not finite.

    """
    what = "finite numbers of shape (n,)"
    array = check_array(name, coordinates, what)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        wrong_value(name, f"{what}, at least one", coordinates)
    return array


def parts_of(loss: Loss) -> list[Callable[[], Any]]:
    """The functions whose sum is the loss: those of its method ``parts``, or itself.

    Raises:
        TypeError: If ``parts`` returns no list of functions.
        ValueError: If it returns none.

    """
    parts = getattr(loss, "parts", None)
    if not callable(parts):
        return [loss]
    several = check_iterable("loss.parts()", parts(), "functions whose sum is the loss")
    if not several:
        raise ValueError("Expected `loss.parts()` to return functions, but got none.")
    return [check_callable(f"loss.parts()[{number}]", part) for number, part in enumerate(several)]
