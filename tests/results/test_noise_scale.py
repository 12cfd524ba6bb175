"""The result of GradientNoiseScale as text, table, JSON and plot."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lightning_hp import NoiseScaleResult
from lightning_hp.plotting import plot_noise_scale
from lightning_hp.plotting.style import BLUE, RED
from tests.plotting.drawn import draw, lines, texts

KNOWN = NoiseScaleResult((100, 200), (80.0, 300.0), (60.0, 210.0), (110.0, 450.0), "accumulation", 64, 200)
UNKNOWN = NoiseScaleResult(
    (8, 16),
    (40.0, math.nan),
    (20.0, 31.5),
    (90.0, math.inf),
    "processes",
    32,
    16,
    reason="Not above zero.",
    notes=("Steps are missing.",),
)
EMPTY = NoiseScaleResult((), (), (), (), "rehearsal", 1, 0, reason="No step was measured.")
RESULTS = pytest.mark.parametrize("result", [KNOWN, UNKNOWN, EMPTY], ids=["known", "unknown", "empty"])


def test_the_advice_is_half_of_the_last_estimate() -> None:
    assert (KNOWN.noise_scale, KNOWN.interval, KNOWN.max_linear_batch_size) == (300.0, (210.0, 450.0), 150)
    assert (UNKNOWN.noise_scale, UNKNOWN.interval, UNKNOWN.max_linear_batch_size) == (None, (31.5, math.inf), None)
    assert (EMPTY.noise_scale, EMPTY.interval, EMPTY.max_linear_batch_size) == (None, (0.0, math.inf), None)


def test_as_text() -> None:
    assert "300 samples (210 to 450) after 200 steps, between 80 and 300" in str(KNOWN)
    assert "up to 150 samples at most" in str(KNOWN)
    assert str(UNKNOWN) == (
        "Gradient noise scale not known; at least 32 samples. Not above zero.\n"
        "  last known: 40 samples (20 to 90) after 8 steps\n"
        "  Steps are missing."
    )
    assert str(EMPTY) == "Gradient noise scale not known. No step was measured."
    noiseless = replace(KNOWN, noise_scales=(0.0, 0.0), lows=(0.0, 0.0), highs=(0.1, 0.1))
    assert "learning rate: not scaled with the batch size" in str(noiseless)


@RESULTS
def test_through_json_and_back(result: NoiseScaleResult) -> None:
    back = NoiseScaleResult.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False)))
    assert repr(back) == repr(result)
    header, rows = result.table()
    assert all(len(row) == len(header) for row in rows)


TITLES = {id(KNOWN): "about 300 samples", id(UNKNOWN): "not known, at least 32 samples", id(EMPTY): "not known"}


@RESULTS
def test_the_plot_has_the_estimates_and_the_batch_size(result: NoiseScaleResult) -> None:
    ax = result.plot()
    draw(ax)
    assert f"Gradient noise scale: {TITLES[id(result)]}" in [ax.get_title(loc="left"), *texts(ax)]
    (line,) = lines(ax, BLUE)
    assert np.array_equal(line.get_xydata(), np.array([result.steps, result.noise_scales]).T, equal_nan=True)
    (batch,) = lines(ax, RED)
    assert batch.get_ydata()[0] == result.batch_size
    assert f"batch size {result.batch_size}" in texts(ax)
    assert ("not measured" in texts(ax)) is (result is EMPTY)
    assert plot_noise_scale(result, ax) is ax


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"steps": (200, 100)}, ValueError),
        ({"steps": (100,)}, ValueError),
        ({"steps": ("a", "b")}, TypeError),
        ({"noise_scales": (1.0,)}, ValueError),
        ({"noise_scales": (-1.0, 1.0)}, ValueError),
        ({"lows": (math.nan, 1.0)}, ValueError),
        ({"source": "else"}, ValueError),
        ({"batch_size": 0}, ValueError),
        ({"num_observations": 1.5}, TypeError),
        ({"reason": 3}, TypeError),
        ({"notes": (3,)}, TypeError),
    ],
)
def test_wrong_fields_are_refused(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"[Ee]xpected"):
        replace(KNOWN, **change)


def test_wrong_plots_are_refused() -> None:
    with pytest.raises(TypeError, match="a NoiseScaleResult"):
        plot_noise_scale("no")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Axes"):
        plot_noise_scale(KNOWN, "no")  # type: ignore[arg-type]
