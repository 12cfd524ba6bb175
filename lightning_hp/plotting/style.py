"""The colours and the bare axes that all figures share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#26324a"
QUIET = "#6b7385"
RAW = "#8fb0cc"
CURVE = "#245a8d"
SECOND = "#2a8f80"
ANSWER = "#d1435b"


def bare(ax: Axes) -> None:
    """Two spines, a quiet grid, quiet ticks."""
    ax.tick_params(colors=QUIET, which="both")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#c9cfd9")
    ax.grid(axis="y", color="#e8ebf0", linewidth=0.8)
    ax.set_axisbelow(True)


def headline(ax: Axes, title: str, lines: list[str]) -> None:
    """The answer, and below it in smaller letters how it came about."""
    ax.set_title(title, loc="left", color=INK, fontsize=14, fontweight="bold", pad=10 + 13 * len(lines))
    ax.annotate(
        "\n".join(lines),
        (0, 1),
        (0, 7),
        xycoords="axes fraction",
        textcoords="offset points",
        color=QUIET,
        fontsize=9.5,
        va="bottom",
    )
