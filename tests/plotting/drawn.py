"""What is on an Axes."""

from __future__ import annotations

import io

from matplotlib.colors import same_color


def lines(ax, color=None, **wanted):
    """The lines of that colour whose properties are as wanted."""
    return [
        line
        for line in ax.get_lines()
        if (color is None or same_color(line.get_color(), color))
        and all(getattr(line, f"get_{name}")() == value for name, value in wanted.items())
    ]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def draw(ax):
    """Saves the figure; warnings are errors, so anything that cannot be drawn fails here."""
    ax.figure.savefig(io.BytesIO(), format="png")
