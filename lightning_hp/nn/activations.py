"""Activations: built from an instance, a class or a name, written as text, and the scale of weights that suits them."""

from __future__ import annotations

import ast
import copy
import difflib
import inspect
import math
from typing import Any

import torch
from torch import nn

from lightning_hp.functional.checks import wrong_type

Activation = nn.Module | type[nn.Module] | str

# Activations of torch whose output is not one number for each number of the input.
_NOT_ELEMENTWISE = ("GLU", "LogSoftmax", "MultiheadAttention", "Softmax", "Softmax2d", "Softmin")
_NAMES = {
    name.lower(): getattr(nn, name)
    for name in nn.modules.activation.__all__
    if name not in (*_NOT_ELEMENTWISE, "Threshold")
}
_ELEMENTWISE = "Expected `activation_fn` to act on each number by itself, as nn.ReLU() does, but got"


def new_activation(activation_fn: Any) -> nn.Module:
    """A new module that shares nothing with others.

    Args:
        activation_fn: A module, which is copied; a class of modules that needs no arguments; or the name of an
            activation in ``torch.nn``, in any case, with arguments if it takes some: ``"LeakyReLU(0.2)"``.

    Returns:
        The activation.

    Raises:
        TypeError: If it is no module, class of modules or name.
        ValueError: If the name is unknown, the class needs arguments, or the activation does not act elementwise.

    Example:
        >>> new_activation("leaky_relu"), new_activation(nn.GELU)
        (LeakyReLU(negative_slope=0.01), GELU(approximate='none'))

    """
    if isinstance(activation_fn, nn.Module):
        activation = copy.deepcopy(activation_fn)
    elif isinstance(activation_fn, str):
        activation = _from_text(activation_fn)
    elif isinstance(activation_fn, type) and issubclass(activation_fn, nn.Module):
        try:
            activation = activation_fn()
        except TypeError as error:
            raise ValueError(
                "Expected `activation_fn` to be a class that needs no arguments, or an instance, but got "
                f"{activation_fn.__name__}: {error}."
            ) from error
    else:
        wrong_type("activation_fn", "a module such as nn.ReLU(), its class or its name such as 'relu'", activation_fn)
    if isinstance(activation, tuple(getattr(nn, name) for name in _NOT_ELEMENTWISE)):
        raise ValueError(f"{_ELEMENTWISE} {type(activation).__name__}.")
    return activation


def gain(activation: nn.Module) -> float:
    """The factor on the weights after an activation f that keeps the signal at one scale in a deep network.

    It is 1 / sqrt(E[f(z)^2]) for z from a standard normal distribution: sqrt(2) for ReLU, as He et al. derive it, 1 for
    the identity. The expectation is integrated over a grid of 8001 points in [-8, 8]; no random number is drawn.

    Args:
        activation: An elementwise module; it is used in evaluation mode, so a random activation (RReLU) has its mean.

    Returns:
        The factor; 1 for an activation without a finite second moment > 0.

    Raises:
        ValueError: If the module does not act elementwise.

    References:
        He et al., *Delving Deep into Rectifiers*, 2015, section 2.2.

    Example:
        >>> round(gain(nn.ReLU()), 3), round(gain(nn.Identity()), 3), round(gain(nn.Tanh()), 3)
        (1.414, 1.0, 1.593)

    """
    z = torch.linspace(-8, 8, 8001, dtype=torch.float64, device="cpu")
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    copied = copy.deepcopy(activation).to("cpu", torch.float64).eval()
    try:
        with torch.no_grad():
            second_moment = torch.trapezoid(copied(z.clone()) ** 2 * density, z).item()
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{_ELEMENTWISE} {type(activation).__name__}: {error}") from error
    return 1 / math.sqrt(second_moment) if 0 < second_moment < math.inf else 1.0


def activation_text(activation_fn: nn.Module | type[nn.Module]) -> str:
    """The text from which `new_activation` builds the same activation.

    Args:
        activation_fn: A module or a class of ``torch.nn``.

    Returns:
        Its name, with the arguments that differ from their defaults.

    Raises:
        ValueError: If it is not in ``torch.nn``, or its parameters have been trained.

    Example:
        >>> activation_text(nn.LeakyReLU(0.2)), activation_text(nn.GELU)
        ('LeakyReLU(negative_slope=0.2)', 'GELU')

    """
    if isinstance(activation_fn, type):
        text, kind = activation_fn.__name__, activation_fn
    else:
        kind = type(activation_fn)
        changed = {
            name: getattr(activation_fn, name)
            for name, parameter in inspect.signature(kind).parameters.items()
            if getattr(activation_fn, name, parameter.default) != parameter.default
        }
        arguments = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        text = f"{kind.__name__}({arguments})" if changed else kind.__name__
    if _NAMES.get(kind.__name__.lower()) is kind:
        rebuilt = _from_text(text)
        if isinstance(activation_fn, type) or _state(rebuilt) == _state(activation_fn):
            return text
    raise ValueError(
        "Expected `activation_fn` to be an activation of torch.nn that has not been trained, so that a checkpoint can "
        f"name it, but got {activation_fn!r}. Build a module of your own with `ClassifierMixin` for it."
    )


def _state(activation: nn.Module) -> tuple[str, list[list[float]]]:
    return repr(activation), [parameter.detach().flatten().tolist() for parameter in activation.parameters()]


def _from_text(text: str) -> nn.Module:
    name, bracket, arguments = text.partition("(")
    key = name.strip().lower().removeprefix("nn.").replace("_", "")
    if key not in _NAMES:
        close = difflib.get_close_matches(key, _NAMES, n=3, cutoff=0.4)
        known = ", ".join(_NAMES[match].__name__ for match in close or ("relu", "gelu", "tanh"))
        raise ValueError(
            f"Expected `activation_fn` to be the name of an activation of torch.nn, such as {known}, but got {text!r}."
        )
    try:
        call = ast.parse(f"f({arguments}" if bracket else "f()", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("this is no call")
        args = [ast.literal_eval(value) for value in call.args]
        kwargs = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        activation: nn.Module = _NAMES[key](*args, **kwargs)
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected `activation_fn` to be a name with arguments that it takes, such as 'LeakyReLU(0.2)', but got "
            f"{text!r}: {error}"
        ) from error
    return activation
