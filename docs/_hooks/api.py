"""Turns the list of public names in docs/api.md into entries of mkdocstrings.

The list is what a reader of the repository sees: names that link to their source. In the build each becomes
``::: name``, with the members that a comment after it names.
"""

from __future__ import annotations

import re
from typing import Any

_ENTRY = re.compile(r"^- \[`(?P<name>[\w.]+)`\]\([^)]*\)(?: <!-- members: (?P<members>[\w, ]+) -->)?$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return _ENTRY.sub(_entry, markdown) if page.file.src_uri == "api.md" else markdown


def _entry(match: re.Match[str]) -> str:
    members = match["members"]
    if members is None:
        return f"::: {match['name']}\n"
    listed = "false" if members == "none" else f"[{members}]"
    options = [f"members: {listed}", *([f"inherited_members: {listed}"] if listed != "false" else [])]
    return f"::: {match['name']}\n    options:\n" + "".join(f"      {option}\n" for option in options)
