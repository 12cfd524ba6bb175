"""Spacing of values, and the range around one of them."""

from __future__ import annotations

import math

import pytest

from lightning_hp.functional.sweep.labels import key_of, label_of, short_label
from lightning_hp.functional.sweep.spacing import interpolate, is_geometric, position_of


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1e-4, 1e-3, 1e-2], True),
        ([512, 64, 256, 128], True),
        ([0.01, 0.03, 0.1, 0.3], True),
        ([0.1, 0.2, 0.3, 0.4, 0.5], False),
        ([10, 20, 30], False),
        ([0.0, 0.001, 0.1], False),
        ([-4.0, 1.0], False),
        ([1, 2], False),
        ([1, 8], True),
    ],
)
def test_lists_spaced_by_ratio_are_geometric(values: list[float], expected: bool):
    assert is_geometric(values) is expected


@pytest.mark.parametrize("values", [[64.0, 128.0, 512.0], [0.0, 0.2, 0.5], [3.0, 4.0]])
def test_position_and_interpolation_are_inverse(values: list[float]):
    for step in range(10 * (len(values) - 1) + 1):
        assert position_of(values, interpolate(values, step / 10)) == pytest.approx(step / 10, abs=1e-9)


def test_between_geometric_neighbours_lies_their_geometric_mean():
    assert interpolate([1e-4, 1e-2], 0.5) == pytest.approx(math.sqrt(1e-4 * 1e-2))
    assert interpolate([0.1, 0.3], 0.5) == pytest.approx(0.2)


def test_keys_are_equal_for_equal_settings_in_any_order():
    assert key_of({"a": 1, "b": math.sqrt}) == key_of({"b": math.sqrt, "a": 1})
    assert key_of({"a": 1}) != key_of({"a": "1"}) != key_of({"a": 1.0})


def test_values_without_a_lasting_name_are_refused():
    with pytest.raises(ValueError, match="whose repr states what they are"):
        label_of(object())
    with pytest.raises(ValueError, match="whose repr states what they are"):
        label_of(lambda: 0)


def test_short_labels():
    assert [short_label(value) for value in ("relu", 0.123456, (8, 0.5), math.sqrt, dict)] == [
        "relu",
        "0.1235",
        "(8, 0.5)",
        "sqrt",
        "dict",
    ]
