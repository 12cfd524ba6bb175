"""Values of the wrong kind or out of range, and a check that a function refuses them with a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch

WRONG: tuple[Any, ...] = (
    None,
    "3",
    "",
    b"x",
    3.0,
    -1,
    0,
    True,
    math.nan,
    math.inf,
    -math.inf,
    10**400,
    -(10**400),
    10**5000,
    Fraction(1, 3),
    1j,
    [],
    {},
    [None],
    ["3"],
    [[1.0], [1.0, 2.0]],
    [10**400],
    object(),
    np.float32(0.5),
    np.int8(3),
    np.array([]),
    np.array(["a"]),
    np.array(2.0),
    np.ones((2, 3)),
    torch.ones(2, requires_grad=True),
    torch.tensor(3),
    torch.empty(0),
    torch.ones(2, dtype=torch.bfloat16),
    iter([1]),
)


def answers_or_refuses(function: Callable[..., Any], **arguments: Any) -> None:
    """The function answers, or raises a sentence that begins with "Expected"."""
    try:
        function(**arguments)
    except (TypeError, ValueError) as error:
        assert str(error).startswith("Expected"), error  # noqa: PT017


def check_refusals(function: Callable[..., Any], right: dict[str, Any], argument: str) -> None:
    """With each wrong value of one argument the function answers or refuses."""
    function(**right)
    for value in WRONG:
        answers_or_refuses(function, **right | {argument: value})
