"""What the pages under docs/benchmarks/ share: their folder, Markdown tables, and the versions that were measured."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "docs" / "benchmarks"
PACKAGES = ("torch", "pytorch-lightning", "torch-lr-finder", "scikit-learn", "mlxtend", "numpy")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table; the first is its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def versions(packages: Iterable[str] = PACKAGES) -> str:
    """Python and packages with their versions, in words."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])
