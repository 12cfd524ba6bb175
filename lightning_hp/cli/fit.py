"""``lightning-hp fit``: one training; what a sweep runs if no other command is named."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_hp.cli.lightning_cli import TARGET
from lightning_hp.cli.sweep_file import read_mapping


def run_fit(arguments: Sequence[str]) -> None:
    """Runs the LightningCLI that the environment names, or Lightning's own."""
    target = os.environ.get(TARGET)
    sys.argv = [sys.argv[0], *arguments]  # read by LightningCLI, and where it starts further processes
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    if target is not None:
        module, _, name = target.partition(":")
        function: Any = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
        function()
        return
    importlib.import_module(f"{package_for(arguments)}.cli").LightningCLI()


def package_for(arguments: Sequence[str]) -> str:
    """The Lightning package of the model that the configs name."""
    from lightning_hp.trainer.base_classes import installed_packages
    from lightning_hp.trainer.namespace import NAMESPACES

    default = installed_packages()[0].__name__
    path = None
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before in ("--config", "-c") or argument.startswith("--config="):
            try:
                model = read_mapping(argument.removeprefix("--config=")).get("model")
            except ValueError:
                continue  # LightningCLI says what is wrong
            path = model.get("class_path", path) if isinstance(model, dict) else path
    module, _, name = str(path).rpartition(".")
    if not module:
        return default
    model_class = getattr(importlib.import_module(module), name, None)
    for base in getattr(model_class, "__mro__", ()):
        for package in NAMESPACES:
            if base.__name__ == "LightningModule" and base.__module__.startswith(f"{package}."):
                return package
    return default
