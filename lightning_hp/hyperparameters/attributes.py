"""A named hyperparameter of a user's module or datamodule: in how many places it is kept, read, written.

The same number is often kept twice, as an attribute and in ``hparams``, and sometimes in the datamodule as well. All
of these places are one hyperparameter: they are read together and written together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

_MISSING = object()


@dataclass(frozen=True)
class Place:
    """One place where a value is kept.

    Args:
        owner_name: What the user calls the owner: ``"model"``, ``"datamodule"``.
        owner: The module or datamodule.
        path: Dotted way from the owner to the value: ``"lr"``, ``"hparams.optim.lr"``.

    """

    owner_name: str
    owner: Any
    path: str

    def __str__(self) -> str:
        return f"{self.owner_name}.{self.path}"

    def exists(self) -> bool:
        """Whether there is a value that can be read and written."""
        return _find(self.owner, self.path) is not None

    def read(self) -> Any:
        """The value that is there."""
        holder, key = _resolve(self.owner, self.path)
        return _get(holder, key)

    def write(self, value: Any) -> None:
        """Puts a value there.

        Raises:
            ValueError: If the place cannot be written (a frozen dataclass, a read-only configuration).

        """
        try:
            _set(*_resolve(self.owner, self.path), value)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"Expected a place that can be written, got `{self}`: {error}") from error

    def write_logged(self, value: Any) -> None:
        """Puts a value into the copy of ``hparams`` that Lightning made when they were saved, and logs."""
        logged = getattr(self.owner, "_hparams_initial", None)
        way, _, rest = self.path.partition(".")
        if way == "hparams" and logged is not None and (found := _find(logged, rest)) is not None:
            _set(*found, value)


class NamedAttribute:
    """A hyperparameter by its name, wherever it is kept.

    Args:
        name: Its name, possibly dotted.
        places: Where it is kept; see :func:`find_attribute`.

    """

    def __init__(self, name: str, places: tuple[Place, ...]) -> None:
        self.name = name
        self.places = places

    def __bool__(self) -> bool:
        return bool(self.places)

    def __str__(self) -> str:
        return " and ".join(f"`{place}`" for place in self.places)

    @property
    def paths(self) -> tuple[str, ...]:
        """The dotted ways from the owner to each place, for a record of where the value was."""
        return tuple(place.path for place in self.places)

    @property
    def agrees(self) -> bool:
        """Whether all places hold the same value."""
        values = [place.read() for place in self.places]
        return all(_same(values[0], other) for other in values[1:])

    def read(self) -> Any:
        """The value.

        Raises:
            ValueError: If two places hold different values: which one is meant cannot be known.

        """
        if not self.agrees:
            held = ", ".join(f"`{place}` = {place.read()!r}" for place in self.places)
            raise ValueError(f"Expected one value of `{self.name}`, got {held}. Make them equal, or keep only one.")
        return self.places[0].read()

    def write(self, value: Any) -> None:
        """Writes all places, and the copies of ``hparams`` that Lightning logs.

        Raises:
            ValueError: If a place cannot be written.

        """
        for place in self.places:
            place.write(value)
            place.write_logged(value)


def find_attribute(name: str, **owners: Any) -> NamedAttribute:
    """Finds every place where a hyperparameter is kept: attribute or ``hparams``, of each owner.

    ``hparams`` may be a dict, Lightning's ``AttributeDict``, an OmegaConf-like mapping or hold a ``Namespace``. A
    property without a setter is no place, and neither is a method or a submodule of that name.

    Args:
        name: Its name; dots reach into nested objects and mappings (``"optim.lr"``, ``"hparams.lr"``).
        **owners: Who may have it, by the name that a user knows: ``model=..., datamodule=...``. ``None`` is skipped.

    Returns:
        The attribute; falsy if it was found nowhere.

    Example:
        >>> from types import SimpleNamespace
        >>> model = SimpleNamespace(batch_size=32, hparams={"batch_size": 32, "width": 8})
        >>> attribute = find_attribute("batch_size", model=model, datamodule=None)
        >>> print(attribute, attribute.read())
        `model.batch_size` and `model.hparams.batch_size` 32
        >>> attribute.write(64)
        >>> model.batch_size, model.hparams["batch_size"]
        (64, 64)
        >>> bool(find_attribute("learning_rate", model=model))
        False

    """
    places: dict[tuple[int, str], Place] = {}
    for owner_name, owner in owners.items():
        for path in (name, f"hparams.{name}"):
            found = _find(owner, path) if owner is not None else None
            if found is not None:
                places.setdefault((id(found[0]), found[1]), Place(owner_name, owner, path))
    return NamedAttribute(name, tuple(places.values()))


def as_number(value: Any) -> float | None:
    """A number as a float: from an int, a float, a NumPy or one-element torch value, or its text (YAML's ``1e-3``).

    Example:
        >>> as_number(32), as_number("1e-3"), as_number(None), as_number(True)
        (32.0, 0.001, None, None)

    """
    if isinstance(value, Tensor) and value.numel() == 1 and value.dtype != torch.bool:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (Real, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _find(owner: Any, path: str) -> tuple[Any, str] | None:
    """The object or mapping that holds the last name of ``path``, and that name, if there is such a value."""
    try:
        holder, key = _resolve(owner, path)
    except (AttributeError, KeyError):
        return None
    value = _get(holder, key, _MISSING)
    described = getattr(type(holder), key, None)
    read_only = isinstance(described, property) and described.fset is None
    if value is _MISSING or callable(value) or isinstance(value, nn.Parameter) or read_only:
        return None
    return holder, key


def _resolve(owner: Any, path: str) -> tuple[Any, str]:
    *way, key = path.split(".")
    for name in way:
        owner = _get(owner, name)
    return owner, key


def _get(holder: Any, key: str, *default: Any) -> Any:
    if isinstance(holder, Mapping):
        return holder.get(key, *default) if default else holder[key]
    return getattr(holder, key, *default)


def _set(holder: Any, key: str, value: Any) -> None:
    old = _get(holder, key)
    if isinstance(old, Tensor):  # of the same kind, but another object: others may hold the old one
        value = torch.full_like(old, float(value)) if not isinstance(value, Tensor) else value
    if isinstance(holder, MutableMapping):
        holder[key] = value
    else:
        setattr(holder, key, value)


def _same(left: Any, right: Any) -> bool:
    if left is right:
        return True
    numbers = as_number(left), as_number(right)
    return numbers[0] == numbers[1] if None not in numbers else type(left) is type(right) and bool(left == right)
