"""Argument checks of the whole package: a wrong type is a ``TypeError``, a wrong value a ``ValueError``.

Every check returns the value in its plain Python type (NumPy numbers become ``int`` and ``float``), or raises with one
sentence that says what was expected and what came.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_Value = TypeVar("_Value")

#: The largest integer that is accepted: float64 holds each one up to it exactly, so that no conversion fails or rounds.
MAX_INT = 2**53

#: Tensors of 32 bits are multiplied with learning rates, radii and decays. Beyond these numbers the square of such a
#: number overflows or vanishes there.
MIN_FACTOR, MAX_FACTOR = 1e-15, 1e15

_BYTES = (bytes, bytearray, memoryview)


def check_int(name: str, value: Any, minimum: int, maximum: int = MAX_INT, *, also: str = "") -> int:
    """An integer, not a bool.

    Args:
        name: The argument, for the message.
        value: What came.
        minimum: The smallest allowed value.
        maximum: The largest allowed value; 2**53 by default.
        also: Other allowed values, which the caller has handled, for the message (``"None"``).

    Returns:
        The value as an ``int``.

    Raises:
        TypeError: If it is no integer.
        ValueError: If it is out of range.

    Example:
        >>> check_int("size", np.int64(3), 1)
        3

    """
    bounds = f">= {minimum}" if maximum == MAX_INT else f"from {minimum} to {maximum}"
    expected = _or(f"an int {bounds}", also)
    if not is_number(value) or not isinstance(value, Integral):
        wrong_type(name, expected, value)
    number = int(value)
    if number > MAX_INT:
        expected = f"{expected} and at most 2**53"
    if not minimum <= number <= maximum:
        wrong_value(name, expected, value)
    return number


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    minimum: float | None = None,
    below: float | None = None,
    maximum: float | None = None,
    finite: bool = True,
    also: str = "",
) -> float:
    """A real number, not a bool and never NaN.

    Args:
        name: The argument, for the message.
        value: What came.
        above: The value has to be larger than this.
        minimum: The smallest allowed value.
        below: The value has to be smaller than this.
        maximum: The largest allowed value.
        finite: Whether infinity is refused.
        also: Other allowed values, which the caller has handled, for the message (``"None"``).

    Returns:
        The value as a ``float``.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is out of range.

    Example:
        >>> check_number("share", np.float32(0.5), above=0, below=1)
        0.5

    """
    bounds = [
        f"{sign} {bound:g}"
        for sign, bound in ((">", above), (">=", minimum), ("<", below), ("<=", maximum))
        if bound is not None
    ]
    kind = "a finite number" if finite and below is None and maximum is None else "a number"
    expected = _or(" ".join(filter(None, [kind, " and ".join(bounds)])), also)
    if not is_number(value):
        wrong_type(name, expected, value)
    try:
        number = float(value)
    except OverflowError:  # an int of 400 digits
        number = math.inf if value > 0 else -math.inf
    holds = (
        not math.isnan(number)
        and (math.isfinite(number) or not finite)
        and (above is None or number > above)
        and (minimum is None or number >= minimum)
        and (below is None or number < below)
        and (maximum is None or number <= maximum)
    )
    if not holds:
        wrong_value(name, expected, value)
    return number


def check_factor(
    name: str, value: Any, *, above: float | None = None, minimum: float | None = None, also: str = ""
) -> float:
    """A number with which tensors are multiplied: a learning rate, a radius, a weight decay.

    Args:
        name: The argument, for the message.
        value: What came.
        above: The value has to be larger than this.
        minimum: The smallest allowed value.
        also: Other allowed values, which the caller has handled, for the message (``"None"``).

    Returns:
        The value as a ``float``.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is out of range, or neither 0 nor from 1e-15 to 1e15.

    Example:
        >>> check_factor("lr", np.float64(0.1), above=0)
        0.1

    """
    number = check_number(name, value, above=above, minimum=minimum, also=also)
    if number and not MIN_FACTOR <= abs(number) <= MAX_FACTOR:
        wrong_value(name, f"a number from {MIN_FACTOR:g} to 1e15, with which 32 bits can calculate", value)
    return number


def check_bool(name: str, value: Any, *, also: str = "") -> bool:
    """``True`` or ``False``.

    Raises:
        TypeError: If it is anything else.

    """
    if not isinstance(value, (bool, np.bool_)):
        wrong_type(name, _or("True or False", also), value)
    return bool(value)


def check_str(name: str, value: Any, *, what: str = "a str", also: str = "") -> str:
    """A text.

    Raises:
        TypeError: If it is no ``str``.

    """
    if not isinstance(value, str):
        wrong_type(name, _or(what, also), value)
    return str(value)


def check_choice(name: str, value: Any, choices: Collection[_Value], *, also: str = "") -> _Value:
    """One of several named values.

    Returns:
        The choice that equals the value.

    Raises:
        TypeError: If its type is that of none of the choices.
        ValueError: If it is none of the choices.

    Example:
        >>> check_choice("mode", "min", ("min", "max"))
        'min'

    """
    listed = ", ".join(map(repr, choices))
    expected = _or(f"one of {listed}" if len(choices) > 1 else listed, also)
    if isinstance(value, bool) or not isinstance(value, tuple({type(choice) for choice in choices})):
        wrong_type(name, expected, value)
    found = [choice for choice in choices if choice == value]
    if not found:
        wrong_value(name, expected, value)
    return found[0]


def check_callable(name: str, value: Any, *, what: str = "a function", also: str = "") -> Callable[..., Any]:
    """Something that can be called.

    Raises:
        TypeError: If it cannot.

    """
    if not callable(value):
        wrong_type(name, _or(what, also), value)
    function: Callable[..., Any] = value
    return function


def check_instance(name: str, value: Any, kinds: type | tuple[type, ...], what: str, *, also: str = "") -> None:
    """An object of a class.

    Raises:
        TypeError: If it is of none of the classes.

    """
    if not isinstance(value, kinds):
        wrong_type(name, _or(what, also), value)


def check_iterable(name: str, value: Any, what: str, *, also: str = "") -> list[Any]:
    """Several values; an iterator is read once, here.

    Returns:
        The values as a list.

    Raises:
        TypeError: If it cannot be iterated, or is a text, bytes or a dictionary.
        ValueError: If there is no memory for so many values.

    """
    if isinstance(value, (str, Mapping, *_BYTES)) or not isinstance(value, Iterable):
        wrong_type(name, _or(what, also), value)
    try:
        return list(value)
    except TypeError:  # a tensor or array without a dimension
        wrong_type(name, _or(what, also), value)
    except MemoryError:
        wrong_value(name, f"{_or(what, also)}, as many as there is memory for", value)


def check_array(name: str, value: Any, what: str) -> NDArray[np.float64]:
    """Numbers of any shape.

    Args:
        name: The argument, for the message.
        value: Anything that NumPy takes for an array of numbers; tensors too.
        what: What was expected, with its shape.

    Returns:
        The values as ``float64``.

    Raises:
        TypeError: If it holds anything but numbers, is ragged, or bytes.
        ValueError: If there is no memory for so many numbers.

    Example:
        >>> check_array("losses", [1, 2.5], "numbers of shape (steps,)").tolist()
        [1.0, 2.5]

    """
    if isinstance(value, _BYTES):
        wrong_type(name, what, value)
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            value = value.double() if value.is_floating_point() else value  # NumPy has no bfloat16
        array = np.asarray(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        wrong_type(name, what, value)
    except MemoryError:
        wrong_value(name, f"{what}, as many as there is memory for", value)
    if array.dtype.kind not in "iuf":
        wrong_type(name, what, value)
    return array.astype(np.float64)


def check_options(name: str, options: Any, what: str, allowed: Collection[str] | None = None) -> dict[str, Any]:
    """A dictionary of named arguments.

    Args:
        name: The argument, for messages.
        options: A mapping with strings as keys, or ``None`` for no options.
        what: What was expected, for messages.
        allowed: The allowed keys; ``None``: any.

    Returns:
        A new dictionary; NumPy numbers are converted to Python's.

    Raises:
        TypeError: If it is no mapping with strings as keys.
        ValueError: If a key is not allowed.

    Example:
        >>> check_options("optimizer_options", {"momentum": np.float64(0.9)}, "a dict of arguments")
        {'momentum': 0.9}

    """
    if options is None:
        return {}
    expected = what if allowed is None else f"{what} with keys from {', '.join(allowed)}"
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        wrong_type(name, _or(expected, "None"), options)
    unknown = [] if allowed is None else [key for key in options if key not in allowed]
    if unknown:
        raise ValueError(f"Expected `{name}` to be {expected}, but got the key {unknown[0]!r}.")
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in options.items()}


def check_fields(name: str, value: Any, fields: Collection[str]) -> dict[str, Any]:
    """A dictionary with exactly these keys, such as a part of a checkpoint.

    Returns:
        A new dictionary.

    Raises:
        TypeError: If it is no mapping.
        ValueError: If a key is missing or unknown.

    Example:
        >>> check_fields("state", {"lr": 0.1, "home": []}, ("home", "lr"))
        {'lr': 0.1, 'home': []}

    """
    expected = f"a dict with the keys {', '.join(fields)}"
    if not isinstance(value, Mapping):
        wrong_type(name, expected, value)
    if set(value) != set(fields):
        wrong_value(name, expected, value)
    return dict(value)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a real number and not a bool.

    Example:
        >>> is_number(1), is_number(np.float32(0.5)), is_number(True), is_number("1")
        (True, True, False, False)

    """
    return isinstance(value, Real) and not isinstance(value, bool)


def wrong_type(name: str, expected: str, value: Any) -> NoReturn:
    """Raises ``TypeError``: the value is of another type than was expected."""
    raise TypeError(f"Expected `{name}` to be {expected}, but got {_short(value)} ({type(value).__name__}).")


def wrong_value(name: str, expected: str, value: Any) -> NoReturn:
    """Raises ``ValueError``: the type is right and the value is not."""
    raise ValueError(f"Expected `{name}` to be {expected}, but got {_short(value)}.")


def _or(expected: str, also: str) -> str:
    return f"{expected}, or {also}" if also else expected


def _short(value: Any) -> str:
    """A value as one line of a sentence, whatever it is."""
    try:
        text = " ".join(repr(value).split())
    except Exception as error:  # noqa: BLE001 - the user's `__repr__`; the sentence matters more
        text = f"an object whose repr raises {type(error).__name__}"
    return text if len(text) <= 100 else f"{text[:97]}..."
