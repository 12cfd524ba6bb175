"""Activations: by instance, class, name or text; a new one for each layer; and the scale of weights that suits it."""

from __future__ import annotations

import ast
import copy
import difflib
import inspect
import math
from typing import Any

import torch
from torch import nn

Activation = nn.Module | type[nn.Module] | str

# What these give is not one number for each number that came.
_NOT_ELEMENTWISE = ("GLU", "LogSoftmax", "MultiheadAttention", "Softmax", "Softmax2d", "Softmin")
_NAMES = {
    name.lower(): getattr(nn, name)
    for name in nn.modules.activation.__all__
    if name not in (*_NOT_ELEMENTWISE, "Threshold")
}


def new_activation(activation_fn: Any) -> nn.Module:
    """A new module that does what ``activation_fn`` says and shares nothing with it.

    Raises:
        TypeError: If it is no instance, no class and no name of a module.
        ValueError: If the name is not known, or what it gives has another shape than what came.

    """
    if isinstance(activation_fn, nn.Module):
        activation = copy.deepcopy(activation_fn)
    elif isinstance(activation_fn, str):
        activation = _named(activation_fn)
    elif isinstance(activation_fn, type) and issubclass(activation_fn, nn.Module):
        activation = activation_fn()
    else:
        raise TypeError(
            "Expected `activation_fn` to be a module such as nn.ReLU(), its class or its name such as 'relu', "
            f"but got {activation_fn!r}."
        )
    if isinstance(activation, tuple(getattr(nn, name) for name in _NOT_ELEMENTWISE)):
        raise ValueError(
            "Expected `activation_fn` to act on each number by itself, as nn.ReLU() does, but got "
            f"{type(activation).__name__}."
        )
    return activation


def gain(activation: nn.Module) -> float:
    """By how much the weights behind an activation f have to be larger, so that the signal does not fade with depth.

    For z from a standard normal it is 1 / sqrt(E[f(z)^2]): the square root of 2 for ReLU, as He et al. derive it, 1 for
    none, and the same derivation for any other activation. It is integrated over a grid: no random number is drawn.

    Source: He et al., *Delving Deep into Rectifiers*, 2015, section 2.2.

    Example:
        >>> round(gain(nn.ReLU()), 3), round(gain(nn.Identity()), 3), round(gain(nn.Tanh()), 3)
        (1.414, 1.0, 1.593)

    """
    z = torch.linspace(-8, 8, 8001, dtype=torch.float64, device="cpu")
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    # As in use on new data: what is random in training (RReLU) is at its mean then.
    probe = copy.deepcopy(activation).to("cpu", torch.float64).eval()
    with torch.no_grad():
        second_moment = torch.trapezoid(probe(z.clone()) ** 2 * density, z).item()
    return 1 / math.sqrt(second_moment) if 0 < second_moment < math.inf else 1.0


def activation_text(activation_fn: nn.Module | type[nn.Module]) -> str:
    """The text that `new_activation` makes this activation of.

    Raises:
        ValueError: If there is none: it is not of ``torch.nn``, or has learned something.

    Example:
        >>> activation_text(nn.LeakyReLU(0.2)), activation_text(nn.GELU)
        ('LeakyReLU(negative_slope=0.2)', 'GELU')

    """
    if isinstance(activation_fn, type):
        text, kind = activation_fn.__name__, activation_fn
    else:
        kind = type(activation_fn)
        named = {
            name: getattr(activation_fn, name)
            for name, parameter in inspect.signature(kind).parameters.items()
            if getattr(activation_fn, name, parameter.default) != parameter.default
        }
        arguments = ", ".join(f"{name}={value!r}" for name, value in named.items())
        text = f"{kind.__name__}({arguments})" if named else kind.__name__
    if _NAMES.get(kind.__name__.lower()) is kind:
        same = _named(text)
        if isinstance(activation_fn, type) or _state(same) == _state(activation_fn):
            return text
    raise ValueError(
        "Expected `activation_fn` to be an activation of torch.nn that has not been trained, so that a checkpoint can "
        f"name it, but got {activation_fn!r}. Build a module of your own with `ClassifierMixin` for it."
    )


def _state(activation: nn.Module) -> tuple[str, list[list[float]]]:
    return repr(activation), [parameter.detach().flatten().tolist() for parameter in activation.parameters()]


def _named(text: str) -> nn.Module:
    name, bracket, arguments = text.partition("(")
    wanted = name.strip().lower().removeprefix("nn.").replace("_", "")
    if wanted not in _NAMES:
        close = difflib.get_close_matches(wanted, _NAMES, n=3, cutoff=0.4)
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
        activation: nn.Module = _NAMES[wanted](*args, **kwargs)
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected `activation_fn` to be a name with arguments that it takes, such as 'LeakyReLU(0.2)', but got "
            f"{text!r}: {error}"
        ) from error
    return activation
