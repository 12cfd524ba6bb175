"""Loss landscapes as a page that can be rotated, drawn by plotly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lightning_hp.results.landscape import LandscapeResult


def landscape_html(results: Mapping[str, LandscapeResult]) -> str:
    """A page with one surface per landscape, side by side, with one colour scale. It needs no network.

    Args:
        results: Landscapes by name.

    Returns:
        The page.

    Raises:
        ModuleNotFoundError: If plotly is missing.
        ValueError: If a landscape has only one coordinate in a direction.

    """
    for result in results.values():
        if not result.is_surface:
            raise ValueError(
                "Expected a landscape with more than one coordinate in both directions, but got"
                f" {len(result.x)} and {len(result.y)}, which is no surface. Draw it with `plot()`."
            )
    try:
        from plotly import graph_objects
        from plotly.subplots import make_subplots
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Expected `plotly`, but it is not installed. Run: pip install 'lightning-hp[plotly]'"
        ) from error
    losses = [np.where(np.isfinite(result.surfaces[0]), result.surfaces[0], np.nan) for result in results.values()]
    is_log = all((surface[~np.isnan(surface)] > 0).all() for surface in losses)
    heights = [np.log10(surface) if is_log else surface for surface in losses]
    finite = np.concatenate([height[np.isfinite(height)] for height in heights])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    figure = make_subplots(
        rows=1, cols=len(results), specs=[[{"type": "surface"}] * len(results)], subplot_titles=list(results)
    )
    for column, (result, height) in enumerate(zip(results.values(), heights, strict=True), start=1):
        surface = graph_objects.Surface(
            x=result.x,
            y=result.y,
            z=height,
            customdata=result.surfaces[0],
            hovertemplate="loss %{customdata:.4g}<br>%{x:.3g}, %{y:.3g}<extra></extra>",
            coloraxis="coloraxis",
        )
        figure.add_trace(surface, row=1, col=column)
        if result.path is not None:
            _add_path(figure, graph_objects, result, height, column)
    ticks = np.linspace(low, high, 6)
    labels = [f"{10**tick if is_log else tick:.2g}" for tick in ticks]
    figure.update_layout(
        coloraxis={
            "colorscale": "Viridis",
            "cmin": low,
            "cmax": high,
            "colorbar": {"title": {"text": "loss"}, "tickvals": ticks, "ticktext": labels},
        },
        margin={"l": 0, "r": 0, "t": 40, "b": 0},
    )
    names = {"xaxis_title": "first direction", "yaxis_title": "second direction"}
    figure.update_scenes(**names, zaxis={"title": "loss", "tickvals": ticks, "ticktext": labels, "range": [low, high]})
    return str(figure.to_html(include_plotlyjs=True, full_html=True))


def _add_path(figure: object, graph_objects: object, result: LandscapeResult, height: object, column: int) -> None:
    """The path of the training, a little above the surface."""
    from scipy.interpolate import RegularGridInterpolator  # type: ignore[import-untyped]

    assert result.path is not None
    lookup = RegularGridInterpolator((result.y, result.x), height, bounds_error=False, fill_value=None)
    line = graph_objects.Scatter3d(  # type: ignore[attr-defined]
        x=result.path[:, 0],
        y=result.path[:, 1],
        z=lookup(result.path[:, ::-1]) + 0.02,
        mode="lines+markers",
        line={"color": "black", "width": 4},
        marker={"size": 3, "color": "black"},
        showlegend=False,
        hoverinfo="skip",
    )
    figure.add_trace(line, row=1, col=column)  # type: ignore[attr-defined]
