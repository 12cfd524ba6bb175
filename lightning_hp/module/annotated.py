"""Options of a class of torch against the annotations of its constructor: torch itself looks at few of them."""

from __future__ import annotations

import types
from collections import abc
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from lightning_hp.functional.checks import check_number, is_number, wrong_type, wrong_value


def check_annotated(argument: str, kind: type, options: Mapping[str, Any]) -> None:
    """Checks options by the annotations of a constructor: numbers, bools, lists of numbers, named values.

    Args:
        argument: The argument that holds the options, for messages.
        kind: The class. Options that it does not know, and annotations of other kinds, are not checked.
        options: Its options.

    Raises:
        TypeError: If an option is of another kind than its annotation.
        ValueError: If it is none of the named values, or a number that is not finite.

    Example:
        >>> import torch
        >>> check_annotated("scheduler_options", torch.optim.lr_scheduler.StepLR, {"step_size": 3})

    """
    # Torch imports some of the names in its annotations for type checking only.
    names = {name: getattr(abc, name) for name in abc.__all__}
    hints = get_type_hints(kind.__init__, localns=names)  # type: ignore[misc] # of the class, not of an instance
    for key, value in options.items():
        if is_number(value):
            check_number(f"{argument}[{key!r}]", value)
        kinds = list(_alternatives(hints.get(key, Any)))
        if any(_fits(value, one) for one in kinds):
            continue
        name, expected = f"{argument}[{key!r}]", " or ".join(map(_in_words, kinds))
        if isinstance(value, str) and any(isinstance(one, str) for one in kinds):
            wrong_value(name, expected, value)
        wrong_type(name, expected, value)


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The parts of a union; the values of a ``Literal``."""
    if get_origin(annotation) in (Union, types.UnionType, Literal):
        for part in get_args(annotation):
            yield from _alternatives(part)
    else:
        yield type(None) if annotation is None else annotation


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, str):
        return bool(value == kind)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return is_number(value)
    if kind in (bool, str, type(None), Tensor):
        return isinstance(value, kind)
    if _is_sequence(kind):
        parts = [part for part in get_args(kind) if part is not Ellipsis]
        return isinstance(value, (list, tuple)) and all(
            any(_fits(entry, one) for part in parts for one in _alternatives(part)) for entry in value
        )
    return True  # a function, or anything else that is not compared


def _is_sequence(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Iterable)


def _in_words(kind: Any) -> str:
    if isinstance(kind, str):
        return repr(kind)
    words = {
        int: "an int",
        float: "a number",
        bool: "True or False",
        str: "a str",
        type(None): "None",
        Tensor: "a tensor",
    }
    if _is_sequence(kind):
        (of,) = {one for part in get_args(kind) if part is not Ellipsis for one in _alternatives(part)} & {
            int,
            float,
        } or {Any}
        return {int: "a list of ints", float: "a list of numbers"}.get(of, "a list")
    return words.get(kind, str(kind))
