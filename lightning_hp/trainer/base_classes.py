"""The base classes of our callbacks and modules, members of every Lightning package that is installed.

``pytorch_lightning`` and ``lightning.pytorch`` each accept only objects of their own classes. A class of ours is
derived from the classes of both, so it is a plain class with one import path: it can be pickled, named in YAML and
checked with ``isinstance`` in both. Importing the second package after the first takes about 0.1 s. This file imports
Lightning, so nothing imports it before a callback or module is used.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from lightning_utilities.core import rank_zero

from lightning_hp.trainer.namespace import NAMESPACES, package_of

if TYPE_CHECKING:
    import lightning.pytorch
    import pytorch_lightning


def installed_packages() -> list[ModuleType]:
    """The Lightning packages that can be imported, in the order in which they were.

    Raises:
        ModuleNotFoundError: If there is none.

    """
    loaded = [name for name, module in sys.modules.items() if name in NAMESPACES and module is not None]
    settings = rank_zero.log, rank_zero.rank_zero_deprecation_category
    packages = []
    for name in dict.fromkeys([*loaded, *NAMESPACES]):
        with suppress(ImportError):
            packages.append(import_module(name))
    if loaded:
        # Each package directs the messages of both to its own logger when it is imported; the user's has them.
        rank_zero.log, rank_zero.rank_zero_deprecation_category = settings
    if not packages:
        raise ModuleNotFoundError(
            "Expected `pytorch_lightning` or `lightning.pytorch`, but neither can be imported; install one of them."
        )
    return packages


class _MethodOfTrainer:
    """A method that both packages define: that of the package whose Trainer the module is attached to.

    Lightning compares the code of a method with that of its own class to see whether a user overrides it, and it looks
    for optimizers of its own class.
    """

    def __init__(self, name: str, owners: dict[str, type]) -> None:
        self._methods = {package: getattr(owner, name) for package, owner in owners.items()}
        self._default = next(iter(self._methods.values()))

    def __get__(self, module: Any, owner: type | None = None) -> Any:
        if module is None:
            return self._default
        trainer = vars(module).get("_trainer")
        return self._methods.get(package_of(trainer) or "", self._default).__get__(module, owner)


def _methods_of_trainer(owners: dict[str, type]) -> dict[str, _MethodOfTrainer]:
    """A descriptor for each method of ``LightningModule`` that all packages define in classes of their own."""
    first, *others = owners.values()
    names = [
        name
        for base in first.__mro__
        if base.__module__.partition(".")[0] in ("lightning", "lightning_fabric", "pytorch_lightning")
        for name, value in vars(base).items()
        if isinstance(value, FunctionType) and not name.startswith("__") and all(hasattr(o, name) for o in others)
    ]
    return {name: _MethodOfTrainer(name, owners) for name in names}


_PACKAGES = installed_packages()
_MODULES: dict[str, type] = {package.__name__: package.LightningModule for package in _PACKAGES}

if TYPE_CHECKING:
    # Our own mypy skips `lightning`, whose hooks take another Trainer; a user's sees both bases.

    class Callback(pytorch_lightning.Callback, lightning.pytorch.Callback):  # type: ignore[misc]
        """A callback of both packages."""

    class LightningModule(pytorch_lightning.LightningModule, lightning.pytorch.LightningModule):  # type: ignore[misc]
        """A module of both packages."""

else:

    class Callback(*(package.Callback for package in _PACKAGES)):
        """A callback of every package that is installed."""

    class LightningModule(*_MODULES.values()):
        """A module of every package that is installed; its methods are those of the package of its Trainer."""

        if len(_MODULES) > 1:
            locals().update(_methods_of_trainer(_MODULES))
