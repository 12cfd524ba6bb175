"""Prepares docstrings for mkdocstrings: ``Example:`` sections become code, and Sphinx roles become inline code.

The parser of mkdocstrings knows ``Examples:`` only, and shows ``:func:`name``` as raw text.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"(?m)^(\s*)Example:$")
# A tilde shows the last part of a dotted path only.
_ROLE = re.compile(r":(?:attr|class|func|meth|mod):`(?:~[\w.]*\.)?([^`~]+)`")


class DocstringMarkup(griffe.Extension):
    """Rewrites each docstring before the parser reads it."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            text = _EXAMPLE.sub(r"\1Examples:", obj.docstring.value)
            obj.docstring.value = _ROLE.sub(r"`\1`", text)
