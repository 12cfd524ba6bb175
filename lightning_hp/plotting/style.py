"""Colours, axes style, titles and argument checks that all plots share."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from lightning_hp.functional.checks import check_instance, wrong_type

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEXT = "#26324a"
GREY = "#6b7385"
GRID = "#e8ebf0"
BLUE = "#245a8d"
LIGHT_BLUE = "#8fb0cc"
GREEN = "#2a8f80"
LIGHT_GREEN = "#8ccabf"
RED = "#d1435b"

SMALL = 8.5  # points, for labels and legends
_TITLE_WIDTH = 105  # characters

#: White background of a label, so that a line that crosses it stays readable.
BACKGROUND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0}


def check_result(result: Any, kind: str) -> None:
    """Checks that ``result`` is of the class named ``kind``; results import plotting, so the class is not imported.

    Raises:
        TypeError: If it is not.

    """
    if kind not in {base.__name__ for base in type(result).__mro__}:
        wrong_type("result", f"a {kind}", result)


def check_axes(name: str, ax: Any) -> None:
    """Checks that ``ax`` is a matplotlib Axes.

    Raises:
        TypeError: If it is not.

    """
    from matplotlib.axes import Axes

    check_instance(name, ax, Axes, "a matplotlib Axes", also="None")


def style_axes(ax: Axes) -> None:
    """Two spines, horizontal grid lines, grey ticks."""
    ax.tick_params(colors=GREY, which="both")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#c9cfd9")
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)


def set_title(ax: Axes, title: str, text: str) -> None:
    """Sets a title and an explanation below it, in smaller letters; each line of the text is wrapped."""
    lines = [line for part in text.split("\n") for line in textwrap.wrap(part, _TITLE_WIDTH)]
    ax.set_title(title, loc="left", color=TEXT, fontsize=14, fontweight="bold", pad=10 + 13 * len(lines))
    ax.annotate(
        "\n".join(lines),
        (0, 1),
        (0, 7),
        xycoords="axes fraction",
        textcoords="offset points",
        color=GREY,
        fontsize=9.5,
        va="bottom",
    )


def add_legend(ax: Axes, title: str, handles: list[Any], *, at_bottom: bool = False) -> Any:
    """Adds a legend to the right of the axes; an earlier one is replaced, unless it was added as an artist."""
    legend = ax.legend(
        handles=handles,
        title=title,
        loc="lower left" if at_bottom else "upper left",
        bbox_to_anchor=(1.0, 0.0 if at_bottom else 1.0),
        frameon=False,
        fontsize=SMALL,
        labelcolor=GREY,
        labelspacing=0.6,
        alignment="left",
    )
    legend.get_title().set(color=TEXT, fontsize=SMALL)
    return legend
