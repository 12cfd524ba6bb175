"""What the user's ``build`` returns, and what it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

from lightning_hp.functional.checks import check_options, wrong_type, wrong_value
from lightning_hp.trainer.namespace import NAMESPACES

#: The modules that were built in this process and still exist.
_BUILT: WeakSet[Any] = WeakSet()

_WHAT = "(model, data) or (model, data, trainer arguments)"


@dataclass(frozen=True)
class Built:
    """A model with its data.

    Attributes:
        model: The LightningModule.
        data: Arguments of ``Trainer.fit``: ``datamodule``, or ``train_dataloaders`` and ``val_dataloaders``.
        trainer: Further arguments of the Trainer.

    """

    model: Any
    data: dict[str, Any]
    trainer: dict[str, Any] = field(default_factory=dict)

    @property
    def package(self) -> str:
        """The Lightning package of the model."""
        names = [base.__module__ for base in type(self.model).__mro__ if base.__name__ == "LightningModule"]
        found = [package for package in NAMESPACES if any(name.startswith(f"{package}.") for name in names)]
        data = self.data.get("datamodule")
        of_data = [base.__module__ for base in type(data).__mro__ if base.__name__ == "LightningDataModule"]
        for package in found:  # a module of both packages follows its datamodule
            if any(name.startswith(f"{package}.") for name in of_data):
                return package
        return found[0]

    @property
    def has_validation(self) -> bool:
        """Whether there is anything to validate on."""
        datamodule = self.data.get("datamodule")
        if datamodule is not None:
            return _overrides(datamodule, "val_dataloader")
        return self.data.get("val_dataloaders") is not None or _overrides(self.model, "val_dataloader")


def read_built(built: Any) -> Built:
    """Takes apart what ``build`` returned.

    Args:
        built: A model; or a tuple of a model, its data and, if needed, arguments of the Trainer. Data is a datamodule,
            a training loader, or a pair of a training loader and a validation loader.

    Raises:
        TypeError: If it is anything else.

    """
    parts = built if isinstance(built, tuple) else (built,)
    model = parts[0] if parts else None
    if not any(base.__name__ == "LightningModule" for base in type(model).__mro__):
        wrong_type("build(settings)", f"{_WHAT} with a LightningModule first", built)
    if len(parts) > 3:
        wrong_value("build(settings)", _WHAT, built)
    trainer = (
        check_options("the third part of build(settings)", parts[2], "a dict of arguments of the Trainer")
        if len(parts) == 3
        else {}
    )
    return Built(model, _fit_arguments(parts[1] if len(parts) > 1 else None), trainer)


def _fit_arguments(data: Any) -> dict[str, Any]:
    if data is None:
        return {}
    if any(base.__name__ == "LightningDataModule" for base in type(data).__mro__):
        return {"datamodule": data}
    if isinstance(data, (tuple, list)):
        if len(data) != 2:
            wrong_value("build(settings)", "data of a training loader and a validation loader", data)
        return {"train_dataloaders": data[0], "val_dataloaders": data[1]}
    if isinstance(data, (str, int, float)):
        wrong_type("build(settings)", "data that is a datamodule, a loader, or two loaders", data)
    return {"train_dataloaders": data}


def _overrides(owner: Any, name: str) -> bool:
    """Whether a class of the user defines the method."""
    return any(name in vars(base) for base in type(owner).__mro__ if not base.__module__.startswith(NAMESPACES)) or (
        name in vars(owner)
    )


class ReadSettings(dict[str, Any]):
    """Settings that note which names are read."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As in ``dict``."""
        self.read.add(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        """As in ``dict``."""
        self.read.add(name)
        return super().pop(name, *default)

    def __iter__(self) -> Iterator[str]:
        self.read.update(super().keys())
        return super().__iter__()

    def keys(self) -> Any:
        """As in ``dict``; all names count as read, here and in what follows."""
        self.read.update(super().keys())
        return super().keys()

    def items(self) -> Any:
        """As in ``dict``."""
        self.read.update(super().keys())
        return super().items()

    def values(self) -> Any:
        """As in ``dict``."""
        self.read.update(super().keys())
        return super().values()

    def copy(self) -> dict[str, Any]:
        """As in ``dict``."""
        self.read.update(super().keys())
        return super().copy()

    def __or__(self, other: Any) -> Any:
        self.read.update(super().keys())
        return super().__or__(other)

    def __repr__(self) -> str:
        self.read.update(super().keys())
        return super().__repr__()

    def __reduce__(self) -> Any:
        self.read.update(super().keys())
        return dict, (dict(super().items()),)


def call_build(build: Callable[..., Any], settings: Mapping[str, Any]) -> tuple[Built, set[str]]:
    """Builds; returns what was built, and the names that were read."""
    noted = ReadSettings(settings)
    built = read_built(build(noted))
    if built.model in _BUILT:
        raise ValueError(
            "Expected `build` to return a new module each time, but it returned one that it had returned before: it"
            " would go on training."
        )
    _BUILT.add(built.model)
    return built, noted.read
