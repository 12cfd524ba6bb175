"""What all results share: checked fields, and the conversion to and from JSON types."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import numpy as np

from lightning_hp.functional.checks import check_array, check_instance, check_iterable, wrong_type, wrong_value

_Value = TypeVar("_Value")


def set_fields(result: Any, **values: Any) -> None:
    """Sets fields of a frozen dataclass; for its ``__post_init__`` only."""
    for name, value in values.items():
        object.__setattr__(result, name, value)


def optional(check: Callable[..., _Value], name: str, value: Any, *limits: Any, **options: Any) -> _Value | None:
    """Runs a check of ``lightning_hp.functional.checks``; ``None`` passes."""
    return None if value is None else check(name, value, *limits, also="None", **options)


def check_items(name: str, values: Any, kind: type[_Value]) -> tuple[_Value, ...]:
    """A tuple of objects of one class.

    Raises:
        TypeError: If ``values`` cannot be iterated, or an item is of another class.

    """
    what = f"a tuple of {kind.__name__}"
    items = check_iterable(name, values, what)
    for item in items:
        check_instance(name, item, kind, what)
    return tuple(items)


def check_rates(name: str, values: Any, at_least: int = 2) -> tuple[float, ...]:
    """The learning rates of a sweep.

    Raises:
        TypeError: If ``values`` are no numbers.
        ValueError: If they are not finite, not positive, not increasing, or fewer than ``at_least``.

    """
    what = f"{('one', 'two')[at_least - 1]} or more positive, strictly increasing learning rates of shape (steps,)"
    rates = check_array(name, values, what)
    if rates.ndim != 1 or len(rates) < at_least or not np.isfinite(rates).all():
        wrong_value(name, what, values)
    if rates[0] <= 0 or (np.diff(rates) <= 0).any():
        wrong_value(name, what, values)
    return tuple(rates.tolist())


def check_losses(name: str, values: Any, steps: int) -> tuple[float, ...]:
    """One loss per learning rate, NaN where there is none.

    Raises:
        TypeError: If ``values`` are no numbers.
        ValueError: If the shape is not (steps,).

    """
    what = f"losses of shape ({steps},)"
    losses = check_array(name, values, what)
    if losses.shape != (steps,):
        wrong_value(name, what, values)
    return tuple(losses.tolist())


def check_sweeps(name: str, values: Any, steps: int) -> tuple[tuple[float, ...], ...]:
    """One row of losses per sweep; those that are not finite become NaN.

    Raises:
        TypeError: If ``values`` are no numbers.
        ValueError: If the shape is neither (steps,) nor (repeats, steps).

    """
    what = f"losses of shape (repeats, {steps})"
    sweeps = np.atleast_2d(check_array(name, values, what))
    if sweeps.ndim != 2 or len(sweeps) == 0 or sweeps.shape[1] != steps:
        wrong_value(name, what, values)
    return tuple(map(tuple, np.where(np.isfinite(sweeps), sweeps, np.nan).tolist()))


def to_json(value: Any) -> Any:
    """Converts tuples and arrays to lists, and numbers that are not finite to ``None``."""
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, Mapping):
        return {key: to_json(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def none_to_nan(value: Any) -> Any:
    """Converts lists of what :func:`to_json` returned back: ``None`` to NaN."""
    if isinstance(value, (list, tuple)):
        return [none_to_nan(entry) for entry in value]
    return math.nan if value is None else value


def from_json(cls: type, values: Any) -> dict[str, Any]:
    """The arguments of a dataclass from a mapping; entries that are no field of it are left out.

    Raises:
        TypeError: If ``values`` is no mapping.
        ValueError: If a field without a default is missing.

    """
    if not isinstance(values, Mapping):
        wrong_type("values", f"a dict with the fields of {cls.__name__}", values)
    required = {field.name for field in fields(cls) if field.default is MISSING and field.default_factory is MISSING}
    if missing := sorted(required - values.keys()):
        wrong_value("values", f"a dict with the fields of {cls.__name__}, which include {', '.join(missing)}", values)
    return {field.name: values[field.name] for field in fields(cls) if field.name in values}
