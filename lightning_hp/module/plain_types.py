"""Conversion of hyperparameters to plain Python types, for checkpoints that load safely, for YAML and for loggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_hp.functional.checks import check_iterable, check_number, wrong_type
from lightning_hp.nn.activations import activation_text

_EXPECTED = "numbers, strings, lists and dictionaries"
_MAX_DEPTH = 20


def to_plain_types(name: str, value: Any) -> Any:
    """The value as numbers, strings, lists and dictionaries.

    Args:
        name: The argument, for messages.
        value: Numbers, strings, bools, ``None``, tensors, arrays, and sequences and mappings of these. An activation,
            as an instance or a class, becomes a string such as ``"LeakyReLU(negative_slope=0.2)"``.

    Returns:
        The same in Python's own types.

    Raises:
        TypeError: If it is or contains something else.
        ValueError: If it is an activation that a string cannot describe.

    Example:
        >>> to_plain_types("head_options", {"n_hidden_units": np.int64(64), "activation_fn": nn.ReLU()})
        {'n_hidden_units': 64, 'activation_fn': 'ReLU'}

    """
    return _convert(name, value, 0)


def _convert(name: str, value: Any, depth: int) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if depth > _MAX_DEPTH or (isinstance(value, Tensor) and (value.is_meta or value.layout != torch.strided)):
        wrong_type(name, _EXPECTED, value)  # a list in itself, or a tensor without values that can be listed
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return _convert(name, value.tolist(), depth + 1)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return check_number(name, value, finite=False)
    if isinstance(value, nn.Module) or (isinstance(value, type) and issubclass(value, nn.Module)):
        return activation_text(value)
    if isinstance(value, Mapping):
        return {str(key): _convert(f"{name}[{key!r}]", entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, str):
        return str(value)
    if not isinstance(value, Sequence) or isinstance(value, (bytes, bytearray, memoryview)):
        wrong_type(name, _EXPECTED, value)
    return [_convert(name, entry, depth + 1) for entry in check_iterable(name, value, _EXPECTED)]
