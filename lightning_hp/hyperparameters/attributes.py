"""Reads and writes a named hyperparameter of a user's module or datamodule, in all places where it is kept.

The same number is often kept twice, as an attribute and in ``hparams``, and sometimes in the datamodule as well. These
places are one hyperparameter: they are read and written together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor, nn

from lightning_hp.functional.checks import check_choice
from lightning_hp.trainer import logged_hparams

_MISSING = object()


class NotWritableError(ValueError):
    """A place refuses a value."""


@dataclass(frozen=True)
class Place:
    """One place where a value is kept.

    Args:
        owner_name: The user's word for the owner: ``"model"``, ``"datamodule"``.
        owner: The module or datamodule.
        path: Dotted path from the owner to the value: ``"lr"``, ``"hparams.optim.lr"``.

    """

    owner_name: str
    owner: Any
    path: str

    def __str__(self) -> str:
        return f"{self.owner_name}.{self.path}"

    def exists(self) -> bool:
        """Whether there is a value that can be read; see :meth:`is_writable`."""
        return _find_holder(self.owner, self.path) is not None

    def read(self) -> Any:
        """Returns the value."""
        holder, name = _resolve(self.owner, self.path)
        return _get(holder, name)

    def write(self, value: Any) -> None:
        """Replaces the value.

        Raises:
            NotWritableError: If the place cannot be written (a frozen dataclass, a read-only configuration).

        """
        try:
            _set(*_resolve(self.owner, self.path), value)
        except Exception as error:  # a configuration raises errors of its own
            raise NotWritableError(f"Expected a place that can be written, got `{self}`: {error}") from error

    def is_writable(self) -> bool:
        """Whether the value can be replaced: writes it again."""
        try:
            self.write(self.read())
        except NotWritableError:
            return False
        return True

    def write_logged(self, value: Any) -> None:
        """Replaces the value in the copy of ``hparams`` that Lightning logs and made when they were saved."""
        first, _, rest = self.path.partition(".")
        logged = logged_hparams(self.owner) if first == "hparams" else None
        place = Place(self.owner_name, logged, rest)
        if logged is not None and place.exists() and place.is_writable():
            place.write(value)


class NamedAttribute:
    """A hyperparameter with all places where it is kept.

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
        """The dotted path from the owner to each place."""
        return tuple(place.path for place in self.places)

    def writable(self, instead: str) -> NamedAttribute:
        """Leaves out the places that cannot be written, and logs which numbers stay as they are.

        Args:
            instead: Where another value is set, for the message: ``"in the loaders"``.

        Returns:
            The attribute with the other places; falsy if there are none.

        """
        writable = tuple(place for place in self.places if place.is_writable())
        read_only = [place for place in self.places if place not in writable and as_number(place.read()) is not None]
        if read_only:
            where = " and ".join(f"`{place}`" for place in read_only)
            rank_zero_info(f"{where} cannot be written: it keeps its value, and another one is set {instead}.")
        return NamedAttribute(self.name, writable)

    @property
    def agrees(self) -> bool:
        """Whether all places hold the same value."""
        values = [place.read() for place in self.places]
        return all(_is_same(values[0], other) for other in values[1:])

    def read(self) -> Any:
        """Returns the value.

        Raises:
            ValueError: If two places hold different values: it is unknown which one is meant.

        """
        if not self.agrees:
            held = ", ".join(f"`{place}` = {place.read()!r}" for place in self.places)
            raise ValueError(f"Expected one value of `{self.name}`, got {held}. Make them equal, or keep only one.")
        return self.places[0].read()

    def write(self, value: Any) -> None:
        """Writes all places, and the copies of ``hparams`` that Lightning logs.

        Raises:
            NotWritableError: If a place cannot be written.

        """
        for place in self.places:
            place.write(value)
            place.write_logged(value)


def find_attribute(name: str, **owners: Any) -> NamedAttribute:
    """Finds every place where a hyperparameter is kept: as an attribute and in ``hparams``, of each owner.

    Args:
        name: The name; dots reach into nested objects and mappings (``"optim.lr"``, ``"hparams.lr"``).
        **owners: The objects to search, by the user's word for each: ``model=..., datamodule=...``. ``None`` is
            skipped.

    Returns:
        The attribute; falsy if it was not found.

    Note:
        ``hparams`` may be a dict, Lightning's ``AttributeDict`` or an OmegaConf-like mapping, and may hold a
        ``Namespace``. A property without a setter, a method and a submodule are not places.

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
        for path in paths_of(name):
            found = _find_holder(owner, path) if owner is not None else None
            if found is not None:
                holder, key = found
                places.setdefault((id(holder), key), Place(owner_name, owner, path))  # one object, one place
    return NamedAttribute(name, tuple(places.values()))


def paths_of(*names: str) -> tuple[str, ...]:
    """Every path at which :func:`find_attribute` looks for one of these names.

    Example:
        >>> paths_of("lr")
        ('lr', 'hparams.lr')

    """
    return tuple(path for name in names for path in (name, f"hparams.{name}"))


def check_path(name: str, path: Any, names: tuple[str, ...]) -> str:
    """A path of a record, which may come from anyone's checkpoint: only where the names themselves can be found.

    Args:
        name: The entry of the record, for the message.
        path: What came.
        names: The names that the value may have.

    Returns:
        The path.

    Raises:
        TypeError: If it is no str.
        ValueError: If :func:`find_attribute` does not look there for one of the names.

    """
    return check_choice(name, path, paths_of(*names))


def as_number(value: Any) -> float | None:
    """Converts an int, a float, a NumPy number, a tensor of one element or a numeric str (YAML's ``1e-3``) to a float.

    Returns:
        The number; ``None`` for everything else, and for infinity and NaN.

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
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _find_holder(owner: Any, path: str) -> tuple[Any, str] | None:
    """The object or mapping that holds the last name of ``path``, and that name; ``None`` if it holds no such value."""
    try:
        holder, name = _resolve(owner, path)
    except (AttributeError, KeyError):
        return None
    value = _get(holder, name, _MISSING)
    descriptor = getattr(type(holder), name, None)
    is_read_only = isinstance(descriptor, property) and descriptor.fset is None
    if value is _MISSING or callable(value) or isinstance(value, nn.Parameter) or is_read_only:
        return None
    return holder, name


def _resolve(owner: Any, path: str) -> tuple[Any, str]:
    *parents, name = path.split(".")
    for parent in parents:
        owner = _get(owner, parent)
    return owner, name


def _get(holder: Any, name: str, *default: Any) -> Any:
    if isinstance(holder, Mapping):
        return holder.get(name, *default) if default else holder[name]
    return getattr(holder, name, *default)


def _set(holder: Any, name: str, value: Any) -> None:
    old = _get(holder, name)
    if isinstance(old, Tensor) and not isinstance(value, Tensor):
        value = torch.full_like(old, float(value))  # a new tensor, since others may hold the old one
    if isinstance(holder, MutableMapping):
        holder[name] = value
    else:
        setattr(holder, name, value)


def _is_same(left: Any, right: Any) -> bool:
    if left is right:
        return True
    numbers = as_number(left), as_number(right)
    return numbers[0] == numbers[1] if None not in numbers else type(left) is type(right) and bool(left == right)
