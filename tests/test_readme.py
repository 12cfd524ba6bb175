"""Every Python block of the README and of the documentation runs, in order, in one namespace a page."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent>[ ]*)```python\b[^\n]*\n(?P<code>.*?)^(?P=indent)```[ ]*$", re.DOTALL | re.MULTILINE)


def python_blocks(text: str) -> list[tuple[int, str]]:
    """The Python blocks of a Markdown text, each with the line of the text on which its code starts."""
    return [
        (text.count("\n", 0, match.start("code")) + 1, textwrap.dedent(match["code"])) for match in FENCE.finditer(text)
    ]


def test_python_blocks_finds_code_with_its_line_and_leaves_other_languages():
    text = "# A\n\n```python\na = 1\n```\n\n```bash\nls\n```\n\n- item\n\n    ```python title='b'\n    b = 2\n    ```\n"
    assert python_blocks(text) == [(4, "a = 1\n"), (14, "b = 2\n")]


def test_the_readme_has_something_to_paste():
    assert python_blocks((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=str(page.relative_to(ROOT)))
        for page in PAGES
        if python_blocks(page.read_text(encoding="utf-8"))
    ],
)
def test_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for line, code in python_blocks(page.read_text(encoding="utf-8")):
        # Blank lines in front make a traceback point at the line of the page.
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)
