"""The result of LossLandscape through JSON, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from lightning_hp import LandscapeResult, Rise, compare_landscapes

GRID = np.linspace(-1, 1, 5)
SURFACE = 0.1 + np.add.outer(GRID[:3] ** 2, GRID**2)


def result(**kwargs: Any) -> LandscapeResult:
    return LandscapeResult(
        **{
            "x": GRID,
            "y": GRID[:3],
            "surfaces": (SURFACE, SURFACE / 3),
            "directions": "random",
            "batch_norm": "running",
            "num_samples": 512,
            "seed": 3,
            **kwargs,
        }
    )


FULL = result(
    directions="trajectory",
    data="0af3",
    loss_name="training_step",
    path=np.array([[1.0, 0.3], [0.1, 0.2], [0.0, 0.0]]),
    explained_variance=(0.7, 0.1 + 0.2),
    eigenvalues=(12.5, 3.0),
    rises=(Rise(0.05, 0.1, 0.01, 0.02), Rise(0.5, 3.0, math.nan, math.nan)),
    epoch=4,
    step=160,
    seconds=2.5,
    notes=("10 of 20 weights are frozen and do not move.",),
)
BROKEN = result(surfaces=[np.where(SURFACE > 0.6, np.nan, SURFACE)], eigenvalues=[], rises=[])


def through_json(value: LandscapeResult) -> LandscapeResult:
    return LandscapeResult.from_dict(json.loads(json.dumps(value.to_dict(), allow_nan=False)))


@pytest.mark.parametrize("value", [result(), FULL, BROKEN], ids=["few fields", "all fields", "a loss is not finite"])
def test_through_json_and_back(value: LandscapeResult) -> None:
    back = through_json(value)
    for field in fields(LandscapeResult):
        saved, restored = getattr(value, field.name), getattr(back, field.name)
        if isinstance(saved, np.ndarray) or field.name == "surfaces":
            np.testing.assert_array_equal(saved, restored)  # which takes NaN as equal to itself
        else:
            assert repr(saved) == repr(restored)
    assert str(back) == str(value)
    assert repr(back.numbers()) == repr(value.numbers())
    assert back.plot().axes


def test_what_was_read_is_compared_with_what_was_measured() -> None:
    compared = compare_landscapes({"measured": result(), "read": through_json(result())})
    assert all(row[1] == row[2] for row in compared.table()[1])


@pytest.mark.parametrize(("x", "y"), [([-1, 0, 2], [0]), ([0], [-1, 0, 2]), ([0], [0])])
@pytest.mark.parametrize("rises", [(), (Rise(0.1, 1.0, 0.5, 2.0),)])
def test_one_coordinate_in_a_direction_is_drawn_as_a_line(x: list[int], y: list[int], rises: Any) -> None:
    losses = np.array([2.0, 1.0, 2.5])[: max(len(x), len(y))]
    line = result(x=x, y=y, surfaces=[losses.reshape(len(y), len(x))], rises=rises)
    comparison = compare_landscapes({"a": line, "b": line})
    for figure in (line.plot(), comparison.plot()):
        figure.canvas.draw()
        (drawn, *_) = figure.axes[0].get_lines()
        np.testing.assert_array_equal(drawn.get_xydata(), np.stack([max(x, y, key=len), losses], axis=1))
    for page in (line.to_html, comparison.to_html):
        with pytest.raises(ValueError, match=r"^Expected a landscape with more than one coordinate in both directions"):
            page()


def test_a_comparison_of_dicts_names_the_way() -> None:
    with pytest.raises(TypeError, match=r"^Expected `models\['a'\]` to be .*`LandscapeResult.from_dict`"):
        compare_landscapes({"a": result().to_dict(), "b": result()})


def test_losses_that_are_not_finite_are_nan_and_unknown_entries_are_left_out() -> None:
    infinite = result(surfaces=[np.where(SURFACE > 0.6, np.inf, SURFACE)])
    np.testing.assert_array_equal(through_json(infinite).surfaces[0], BROKEN.surfaces[0])
    assert LandscapeResult.from_dict({**FULL.to_dict(), "colour": "blue"}).step == 160


def test_it_keeps_its_own_arrays() -> None:
    surface = SURFACE.copy()
    kept = result(surfaces=[surface])
    surface[:] = 0
    assert kept.loss == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"x": []}, ValueError, "`x` to be one or more coordinates, finite numbers of shape"),
        ({"y": [0.0, math.nan, 1.0]}, ValueError, "`y` to be one or more coordinates"),
        ({"x": [-1.0, -0.5, 0.3, 0.5, 1.0]}, ValueError, "`x` to be .* that rise and contain 0, the model itself"),
        ({"y": [1.0, 0.0, -1.0]}, ValueError, "`y` to be .* that rise and contain 0, the model itself"),
        ({"y": [-1.0, 0.0, 0.0]}, ValueError, "`y` to be .* that rise and contain 0, the model itself"),
        ({"x": "abc"}, TypeError, "`x` to be one or more coordinates"),
        ({"surfaces": ()}, ValueError, "`surfaces` to be one or more arrays of losses"),
        ({"surfaces": 3}, TypeError, "`surfaces` to be one or more arrays of losses"),
        ({"surfaces": [SURFACE.T]}, ValueError, r"`surfaces` to be arrays of losses of shape \(3, 5\)"),
        ({"directions": "straight"}, ValueError, "`directions` to be"),
        ({"batch_norm": None}, TypeError, "`batch_norm` to be"),
        ({"num_samples": 0}, ValueError, "`num_samples` to be an int >= 1"),
        ({"path": [[1.0, 2.0, 3.0]]}, ValueError, "`path` to be coordinates of shape"),
        ({"explained_variance": [1.0]}, ValueError, "`explained_variance` to be two numbers"),
        ({"eigenvalues": "abc"}, TypeError, "`eigenvalues` to be a list of numbers"),
        ({"rises": [3]}, TypeError, "`rises` to be a tuple of Rise"),
        ({"epoch": -1}, ValueError, "`epoch` to be an int >= 0, or None"),
        ({"seconds": -1.0}, ValueError, "`seconds` to be a finite number >= 0"),
        ({"notes": [3]}, TypeError, "`notes` to be a tuple of str"),
    ],
)
def test_wrong_values(values: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^Expected {message}"):
        result(**values)
    if "rises" not in values:
        with pytest.raises(error, match=f"^Expected {message}"):
            LandscapeResult.from_dict({**result().to_dict(), **values})


@pytest.mark.parametrize("radius", [0.0, -1.0, math.inf, math.nan])
def test_a_rise_is_at_a_distance(radius: float) -> None:
    with pytest.raises(ValueError, match=r"^Expected `radius` to be a finite number > 0"):
        Rise(radius, 0.0, 0.0, 0.0)
    with pytest.raises(TypeError, match=r"^Expected `worst` to be a number"):
        Rise(1.0, 0.0, 0.0, "high")  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [None, "3", 3.0, [], np.array([])])
def test_from_dict_of_no_dict_is_a_sentence(values: Any) -> None:
    with pytest.raises(TypeError, match=r"^Expected `values` to be a dict with the fields of LandscapeResult"):
        LandscapeResult.from_dict(values)
    with pytest.raises(TypeError, match=r"^Expected `rises` to be a "):
        LandscapeResult.from_dict({**result().to_dict(), "rises": [values]})


def test_from_dict_names_what_is_missing() -> None:
    values = result().to_dict()
    del values["x"], values["seed"]
    with pytest.raises(ValueError, match="which include seed, x, but got"):
        LandscapeResult.from_dict(values)
    with pytest.raises(ValueError, match="with the fields of Rise, which include ascent, mean, radius, worst"):
        LandscapeResult.from_dict({**result().to_dict(), "rises": [{}]})
