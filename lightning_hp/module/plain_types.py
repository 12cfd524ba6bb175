"""Hyperparameters in plain types: they go into checkpoints that load safely, into YAML, and into the loggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_hp.nn.activations import activation_text


def plain(name: str, value: Any) -> Any:
    """The value in numbers, texts, lists and dictionaries alone.

    Args:
        name: What the user calls it.
        value: Also a tensor, an array, a number of NumPy, or an activation as an instance or a class, which becomes a
            text such as ``"LeakyReLU(negative_slope=0.2)"``.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is an activation that a text cannot say.

    Example:
        >>> plain("head_options", {"n_hidden_units": np.int64(64), "activation_fn": nn.ReLU()})
        {'n_hidden_units': 64, 'activation_fn': 'ReLU'}

    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, nn.Module) or (isinstance(value, type) and issubclass(value, nn.Module)):
        return activation_text(value)
    if isinstance(value, Mapping):
        return {str(key): plain(f"{name}[{key!r}]", entry) for key, entry in value.items()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Sequence):
        return [plain(name, entry) for entry in value]
    raise TypeError(f"Expected `{name}` to be numbers, texts, lists and dictionaries, but got {value!r}.")
