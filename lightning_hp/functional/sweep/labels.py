"""Values and settings as text: as keys that are equal in every process, and as a reader writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def key_of(settings: Mapping[str, Any]) -> str:
    """A text that is equal for equal settings, whatever the order of their names."""
    return json.dumps({name: label_of(settings[name]) for name in sorted(settings)})


def label_of(value: Any) -> str:
    """A value as text, the same in every process.

    Raises:
        ValueError: If the text would hold an address in memory.

    Example:
        >>> import torch
        >>> label_of(0.1), label_of("ReLU"), label_of(torch.nn.ReLU), label_of((8, 16))
        ('0.1', "'ReLU'", 'torch.nn.modules.activation.ReLU', '(8, 16)')

    """
    if isinstance(value, np.generic):
        value = value.item()
    if callable(value) and "<" not in getattr(value, "__qualname__", "<"):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(label_of, value))
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    text = " ".join(repr(value).split())
    if " at 0x" in text or "<lambda>" in text:
        raise ValueError(
            f"Expected values of `space` whose repr states what they are, but got {text}; give a name and build the"
            " object in `build`."
        )
    return text


def short_label(value: Any) -> str:
    """A value as a reader writes it: texts without quotes, numbers with four digits, classes without their module."""
    if isinstance(value, str):
        return value
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(map(short_label, value)) + ")"
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    return label_of(value)


def describe(settings: Mapping[str, Any]) -> str:
    """Settings on one line, as in ``lr=0.1, batch_size=32``."""
    return ", ".join(f"{name}={short_label(value)}" for name, value in settings.items())
