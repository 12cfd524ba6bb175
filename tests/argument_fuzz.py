"""Reproducible calls of public constructors and functions with one or two arguments replaced by hostile values."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from tests.test_arguments import VALID, WRONG, _signature


class Number(enum.IntEnum):
    THREE = 3


class Text(str):
    __slots__ = ()


class Layer(nn.Module):
    """A module that can be called with anything."""

    def forward(self, *args: Any) -> None:
        pass


class OwnError(Exception):
    """An error of the value itself, which may pass."""


class Raises:
    """Every protocol raises."""

    def _raise(self, *args: Any) -> Any:
        raise OwnError

    __repr__ = __len__ = __iter__ = __bool__ = __float__ = __getitem__ = __call__ = __eq__ = __lt__ = _raise
    __hash__ = object.__hash__


class HasAll:
    """Has every attribute and can be called, like a mock."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return HasAll()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return HasAll()


class Converts:
    """Can be converted to any number, and is none."""

    def __float__(self) -> float:
        return 3.0

    def __int__(self) -> int:
        return 3

    def __index__(self) -> int:
        return 3


def _recursive() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


#: Beside those of `tests/test_arguments.py`: numbers of other libraries, the ends of every range, odd objects.
MORE: dict[str, Callable[[], Any]] = {
    "np.int64(3)": lambda: np.int64(3),
    "np.uint8(3)": lambda: np.uint8(3),
    "np.float64(0.5)": lambda: np.float64(0.5),
    "np.float16(0.5)": lambda: np.float16(0.5),
    "np.complex64(1)": lambda: np.complex64(1),
    "np.datetime64": lambda: np.datetime64("2020-01-01"),
    "np.ma.masked": lambda: np.ma.masked,
    "np.array([3])": lambda: np.array([3]),
    "np.zeros((2, 0, 3))": lambda: np.zeros((2, 0, 3)),
    "1e308": lambda: 1e308,
    "-1e308": lambda: -1e308,
    "5e-324": lambda: 5e-324,
    "1 - 1e-16": lambda: 1 - 1e-16,
    "1 + 1e-15": lambda: 1 + 1e-15,
    "10**30": lambda: 10**30,
    "10**5000": lambda: 10**5000,
    "2**53": lambda: 2**53,
    "2**53 + 1": lambda: 2**53 + 1,
    "2**31": lambda: 2**31,
    "2**64": lambda: 2**64,
    "Fraction(3)": lambda: Fraction(3),
    "Fraction(10**400, 3)": lambda: Fraction(10**400, 3),
    "Decimal": lambda: decimal.Decimal("0.5"),
    "IntEnum": lambda: Number.THREE,
    "bytearray": lambda: bytearray(b"all"),
    "memoryview": lambda: memoryview(b"all"),
    "b'all'": lambda: b"all",
    "a str of another class": lambda: Text("no"),
    "a surrogate": lambda: "\ud800",
    "a null byte": lambda: "a\0b",
    "a long str": lambda: "x" * 10_000,
    "a dotted str": lambda: "a.b..c",
    "torch.tensor(3)": lambda: torch.tensor(3),
    "torch.tensor([3])": lambda: torch.tensor([3]),
    "torch.tensor(0.5, bfloat16)": lambda: torch.tensor(0.5, dtype=torch.bfloat16),
    "a sparse tensor": lambda: torch.eye(2).to_sparse(),
    "a Parameter": lambda: nn.Parameter(torch.ones(1)),
    "a module": Layer,
    "{1, 2}": lambda: {1, 2},
    "frozenset": lambda: frozenset({"a"}),
    "range(3)": lambda: range(3),
    "range(2**60)": lambda: range(2**60),
    "a date": lambda: dt.date(2020, 1, 1),
    "a path": lambda: PurePosixPath("x"),
    "...": lambda: ...,
    "NotImplemented": lambda: NotImplemented,
    "int": lambda: int,
    "a list in itself": _recursive,
    "raises": Raises,
    "[raises]": lambda: [Raises()],
    "has all": HasAll,
    "converts": Converts,
    "{'lr': 1e308}": lambda: {"lr": 1e308},
    "{'momentum': nan}": lambda: {"momentum": float("nan")},
    "[2**63]": lambda: [2**63],
    "[1e308, 1e308]": lambda: [1e308, 1e308],
    "((1, 2), (3, 4))": lambda: ((1, 2), (3, 4)),
}
VALUES = {**WRONG, **MORE}


class Call(NamedTuple):
    """A call, and what is replaced in it, by the descriptions of the values."""

    subject: Callable[..., Any]
    replaced: dict[str, str]

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in self.replaced.items())
        return f"{self.subject.__name__}({arguments})"  # type: ignore[attr-defined]

    @property
    def values(self) -> dict[str, Any]:
        """The values, made anew."""
        return {name: VALUES[value]() for name, value in self.replaced.items()}


#: What no checkpoint, YAML file or tensor operation takes: it has to be converted, or refused.
_NOT_PLAIN = (np.generic, Fraction, decimal.Decimal, enum.Enum, Text, bytes, bytearray, memoryview, dt.date)


def not_plain(thing: Any, visited: set[int] | None = None) -> Iterator[Any]:
    """The numbers and texts of other types that an object has kept, anywhere below its attributes."""
    visited = set() if visited is None else visited
    if id(thing) in visited:
        return
    visited.add(id(thing))
    if isinstance(thing, _NOT_PLAIN):
        yield thing
    elif isinstance(thing, dict):
        for key, value in list(thing.items()):
            yield from not_plain(key, visited)
            yield from not_plain(value, visited)
    elif isinstance(thing, (list, tuple, set, frozenset)):
        for value in thing:
            yield from not_plain(value, visited)
    elif type(thing).__module__.startswith(("lightning_hp", "tests")):
        yield from not_plain(getattr(thing, "__dict__", {}), visited)


def all_single_calls() -> list[Call]:
    """Every value of every argument of every public name."""
    return [Call(s, {name: value}) for s in VALID for name in _signature(s) for value in VALUES]


def calls(number: int, seed: int = 0) -> Iterator[Call]:
    """The same calls for the same seed, half of them with one argument replaced and half of them with two."""
    draw = random.Random(seed)
    single = all_single_calls()
    draw.shuffle(single)
    for index in range(number):
        call = single[index % len(single)]
        if index % 2:
            other = draw.choice(list(_signature(call.subject)))
            call = Call(call.subject, {**call.replaced, other: draw.choice(list(VALUES))})
        yield call
