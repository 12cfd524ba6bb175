"""Fails the build of the documentation if a public name has no entry in it."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.exceptions import PluginError

import lightning_hp

# mkdocstrings writes an anchor with the dotted name of each documented object.
_ANCHOR = re.compile(r'\bid="(lightning_hp\.[\w.]+)"')
_documented: set[str] = set()


def public_names() -> set[str]:
    """The dotted names that a user may import."""
    modules = (lightning_hp, lightning_hp.functional)
    return {f"{module.__name__}.{name}" for module in modules for name in module.__all__}


def on_pre_build(**_: Any) -> None:
    _documented.clear()


def on_page_content(html: str, **_: Any) -> None:
    _documented.update(_ANCHOR.findall(html))


def on_env(env: Any, **_: Any) -> None:
    """Compares the names once all pages are rendered."""
    missing = sorted(public_names() - _documented)
    if missing:
        raise PluginError(
            f"Expected an entry for every public name, found none for: {', '.join(missing)}. "
            "Add a line for it to docs/api.md, or remove the name from `__all__`."
        )
