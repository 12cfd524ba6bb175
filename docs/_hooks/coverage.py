"""A public name without an entry in the documentation fails the build."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.exceptions import PluginError

import lightning_hp

# mkdocstrings gives each documented object an anchor with its dotted name.
_ANCHOR = re.compile(r'\bid="(lightning_hp\.[\w.]+)"')
_documented: set[str] = set()


def public_names() -> set[str]:
    """The dotted name of everything that a user may import."""
    package, maths = lightning_hp, lightning_hp.functional
    return {f"{module.__name__}.{name}" for module in (package, maths) for name in module.__all__}


def on_pre_build(**_: Any) -> None:
    _documented.clear()


def on_page_content(html: str, **_: Any) -> None:
    _documented.update(_ANCHOR.findall(html))


def on_env(env: Any, **_: Any) -> None:
    """All pages are rendered: nothing that is missing can still come."""
    missing = sorted(public_names() - _documented)
    if missing:
        raise PluginError(
            f"Expected an entry for every public name, found none for: {', '.join(missing)}. "
            "Add `::: <name>` to docs/api.md, or take the name out of `__all__`."
        )
