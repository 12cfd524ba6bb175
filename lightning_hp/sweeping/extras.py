"""Libraries that a sweep needs and the package does not install by itself."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def require(module: str, extra: str) -> Any:
    """Imports a module.

    Args:
        module: Its name.
        extra: The extra of this package that installs it.

    Raises:
        ModuleNotFoundError: If it is not installed; the message says how to install it.

    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Expected `{module}`, but it is not installed. Run: pip install 'lightning-hp[{extra}]'"
        ) from error
