"""LearningRateResult: its fields, its text and table, checked arguments, copies, pickle and JSON."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lightning_hp import LearningRateResult
from lightning_hp.functional import LRSuggestion, choose_rate, lr_range, suggest_lr

LRS = lr_range(1e-6, 10, 99)


def sweep(seed=0, lrs=LRS):
    losses = 2.3 - 2 / (1 + 1e-3 / lrs) + (lrs / 0.3) ** 4 + np.random.default_rng(seed).normal(0, 0.02, len(lrs))
    return np.where(losses > 20, np.nan, losses)


def result(losses=None, **kwargs):
    losses = np.stack([sweep(0), sweep(1)]) if losses is None else losses
    kwargs = {"suggestion": suggest_lr(LRS, losses), "lr_before": 0.1, "seconds": 2.0, **kwargs}
    return LearningRateResult.from_range_test(LRS, losses, **kwargs)


def refused():
    return result(np.full(99, 2.3))


def test_found_suggested_before_and_used_are_kept_apart():
    found = result(rule="valley")
    read = suggest_lr(LRS, [sweep(0), sweep(1)])
    assert found.rules == read.rules
    assert found.suggestion == read.rules["valley"]
    assert (found.lr_before, found.lr_used) == (0.1, 0.1)
    assert found.interval == read.interval
    assert found.edge == read.edge
    used = found.with_used(0.02)
    assert (used.lr_before, used.lr_used, used.suggestion) == (0.1, 0.02, found.suggestion)


def test_the_sweep_is_tuples_of_floats():
    found = result()
    assert found.lrs == tuple(LRS.tolist())
    assert [len(row) for row in found.losses] == [99, 99]
    assert all(type(loss) is float for row in (found.lrs, found.smoothed, *found.losses) for loss in row)
    np.testing.assert_array_equal(np.array(found.losses), [sweep(0), sweep(1)])
    assert found.num_steps == np.isfinite([sweep(0), sweep(1)]).sum()


def test_infinite_losses_are_not_reached():
    losses = np.where(np.isnan(sweep()), np.inf, sweep())
    assert np.isnan(result(losses).losses[0][-1])


@pytest.mark.parametrize("rule", ["fall", "half", "one_cycle", "steepest", "valley", "slide", "minimum"])
def test_where_the_curve_is_refused_no_rule_suggests(rule):
    noise = np.random.default_rng(0).normal(2.3, 0.1, 99)
    found = result(noise, rule=rule)
    assert found.suggestion is None
    assert found.reason is not None
    assert found.rules["minimum"] is not None


def test_a_rule_that_finds_nothing_says_so():
    losses = np.where(np.arange(99) < 12, np.nan, sweep())  # an average that starts lost stays lost
    found = LearningRateResult.from_range_test(LRS, losses, suggest_lr(LRS, losses), lr_before=0.1, rule="valley")
    assert found.rules["fall"] is not None
    assert found.suggestion is None
    assert found.reason == "The rule 'valley' finds nothing on this curve."


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match=r"one of 'fall', 'one_cycle', 'half', .* but got 'auto'"):
        result(rule="auto")


@pytest.mark.parametrize("make", [result, refused])
def test_json_and_back(make):
    found = make()
    text = json.dumps(found.to_dict(), allow_nan=False)
    again = LearningRateResult.from_dict(json.loads(text))
    assert again.to_dict() == found.to_dict()
    assert again.lrs == found.lrs
    np.testing.assert_array_equal(np.array(again.losses), np.array(found.losses))
    assert again.interval == found.interval
    assert {type(getattr(again, f.name)) for f in fields(again)} == {
        type(getattr(found, f.name)) for f in fields(found)
    }


def test_an_infinite_signal_is_kept_in_json():
    exact = result(np.interp(np.log10(LRS), [-6, -4, -1, 1], [0, 0, -1, -1]))
    assert exact.signal == math.inf
    assert LearningRateResult.from_dict(json.loads(json.dumps(exact.to_dict(), allow_nan=False))).signal == math.inf


def test_entries_of_other_versions_are_left_out():
    assert LearningRateResult.from_dict({**result().to_dict(), "colour": "blue"}).suggestion == result().suggestion


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
@pytest.mark.parametrize("make", [result, refused])
def test_copy_and_pickle(make, travel):
    assert travel(make()).to_dict() == make().to_dict()


def test_it_is_frozen():
    with pytest.raises(FrozenInstanceError):
        result().suggestion = 1.0


def test_it_reads_well():
    lines = str(result().with_used(0.002)).splitlines()
    assert lines[0].startswith("Suggested learning rate 0.00")
    assert "two thirds of the fall" in lines[0]
    assert "; 50 to 80 % of the fall lie between 0.00" in lines[0]
    assert lines[1] == "  before 0.1, used 0.002"
    assert all(f"{name} " in lines[2] for name in result().rules)
    assert "of 2 sweeps in 2.0 s, from 1e-06 to 10" in lines[3]
    assert max(len(line) for line in lines) <= 140


def test_a_refusal_reads_well():
    lines = str(refused()).splitlines()
    assert lines[0] == "No learning rate suggested. The loss never fell below where it started."
    assert lines[1] == "  before 0.1, used 0.1"
    assert "fall - | one_cycle -" in lines[2]


def test_the_note_is_shown():
    lrs = lr_range(1e-7, 1, 98)
    losses = 2.3 - 2 / (1 + 1e-3 / lrs)
    found = LearningRateResult.from_range_test(lrs, losses, suggest_lr(lrs, losses), lr_before=0.1)
    assert found.note in str(found)


def test_the_table_has_a_row_for_each_rule():
    header, rows = result().with_used(0.002).table()
    assert all(len(row) == len(header) for row in rows)
    values = {row[0]: row[1] for row in rows}
    assert values["used"] == 0.002
    assert values["before"] == 0.1
    assert {name: values[name] for name in result().rules} == dict(result().rules)
    assert refused().table()[1][0] == ["suggested", None, refused().reason]


def test_the_suggestion_is_read_from_the_second_sweep():
    wide, lrs = result(), lr_range(1e-5, 1, 70)
    zoomed = wide.with_zoom(lrs, sweep(2, lrs), suggest_lr(lrs, sweep(2, lrs)), seconds=1.0)
    assert zoomed.suggestion == suggest_lr(lrs, sweep(2, lrs)).lr
    assert zoomed.lrs == wide.lrs
    assert zoomed.zoom_lrs == tuple(lrs.tolist())
    assert zoomed.num_steps == wide.num_steps + np.isfinite(sweep(2, lrs)).sum()
    assert zoomed.seconds == 3.0
    assert LearningRateResult.from_dict(zoomed.to_dict()).to_dict() == zoomed.to_dict()


def test_after_a_zoom_the_rules_of_others_and_the_edge_are_those_of_the_whole_sweep():
    wide = result()
    lrs = lr_range(1e-5, wide.edge, 70)
    part = suggest_lr(lrs, sweep(2, lrs))
    zoomed = wide.with_zoom(lrs, sweep(2, lrs), part)
    for name in ("steepest", "valley", "slide", "minimum"):
        assert zoomed.rules[name] == wide.rules[name]
    for name in ("fall", "one_cycle", "half"):
        assert zoomed.rules[name] == part.rules[name]
    assert part.edge is None
    assert (zoomed.edge, zoomed.note) == (wide.edge, wide.note)


def test_a_second_sweep_without_a_suggestion_is_not_read():
    wide, lrs = result(), lr_range(1e-4, 1e-2, 20)
    zoomed = wide.with_zoom(lrs, np.full(20, 2.3), suggest_lr(lrs, np.full(20, 2.3)))
    assert zoomed.suggestion == wide.suggestion
    assert zoomed.reason is None
    assert zoomed.zoom_losses == ((2.3,) * 20,)


def test_the_curve_of_a_rule_is_the_one_it_was_read_from():
    wide, lrs = result(), lr_range(1e-5, 1, 70)
    zoomed = wide.with_zoom(lrs, sweep(2, lrs), suggest_lr(lrs, sweep(2, lrs)))
    not_read = wide.with_zoom(lrs, np.full(70, 2.3), suggest_lr(lrs, np.full(70, 2.3)))
    assert (wide.zoom_is_read, zoomed.zoom_is_read, not_read.zoom_is_read) == (False, True, False)
    for name in ("fall", "one_cycle", "half"):
        np.testing.assert_array_equal(zoomed.curve(name), (zoomed.zoom_lrs, zoomed.zoom_smoothed))
        np.testing.assert_array_equal(not_read.curve(name), (wide.lrs, wide.smoothed))
    for name in ("steepest", "valley", "slide", "minimum"):
        np.testing.assert_array_equal(zoomed.curve(name), (wide.lrs, wide.smoothed))
    with pytest.raises(ValueError, match="one of 'fall'"):
        zoomed.curve("auto")


def test_plot_returns_what_the_plotting_function_returns():
    ax = Figure().subplots()
    assert result().plot(ax) is ax
    assert result().plot().get_title(loc="left") == f"Suggested learning rate {result().suggestion:.3g}"


# --- checked arguments

NO_NUMBERS = ["3", b"x", True, {}, object(), [], None, torch.ones(3), np.array([])]
NO_FINITE_NUMBERS = [math.nan, math.inf, -(10**400)]
NO_RATES = [*NO_FINITE_NUMBERS, 0, -1.0]
NO_INTS = [*NO_NUMBERS, 3.0, Fraction(7, 2), math.nan]
NO_STRINGS = [b"x", 3, 3.0, True, {}, object(), [], torch.ones(3), np.array([])]
NO_SWEEPS = [
    "3",
    b"x",
    True,
    3.0,
    {},
    object(),
    [],
    None,
    [1.0],
    ["a", "b"],
    [[1.0], [1.0, 2.0]],
    np.array([]),
    10**400,
]


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        *[(name, value, TypeError) for name in ("lr_before", "lr_used", "signal", "seconds") for value in NO_NUMBERS],
        *[(name, value, ValueError) for name in ("lr_before", "lr_used", "seconds") for value in NO_FINITE_NUMBERS],
        *[("signal", value, ValueError) for value in (math.nan, -1.0, -math.inf)],
        *[(name, v, TypeError) for name in ("suggestion", "edge") for v in NO_NUMBERS if v is not None],
        *[(name, value, ValueError) for name in ("suggestion", "edge") for value in NO_RATES],
        *[("num_steps", value, TypeError) for value in NO_INTS],
        ("num_steps", -1, ValueError),
        *[(name, value, TypeError) for name in ("reason", "note") for value in NO_STRINGS],
        *[("rule", value, TypeError) for value in NO_STRINGS],
        ("rule", "auto", ValueError),
        *[("zoom_is_read", value, TypeError) for value in ("3", 1, None, [], np.array([]))],
        *[(name, value, (TypeError, ValueError)) for name in ("lrs", "losses", "smoothed") for value in NO_SWEEPS],
        *[("lrs", value, ValueError) for value in (LRS[::-1], -LRS, LRS * math.inf, LRS[:1], np.stack([LRS, LRS]))],
        ("losses", np.ones((2, 3, 99)), ValueError),
        ("losses", np.ones((0, 99)), ValueError),
        *[
            ("interval", value, TypeError)
            for value in ("ab", b"x", {}, 3.0, True, object(), ["a", "b"], torch.tensor(1.0))
        ],
        *[("interval", value, ValueError) for value in ([], [1.0], [1, 2, 3], [2, 1], [0, 1], [1, math.nan])],
        *[("rules", value, TypeError) for value in (None, "fall", [], [("fall", 1.0)], {1: 1.0}, {"fall": "1"})],
        *[("rules", value, ValueError) for value in ({}, {"fall": 0.0}, {"fall": math.nan})],
        *[
            ("per_repeat", value, TypeError)
            for value in ("3", b"x", None, 3.0, True, object(), ["a"], torch.tensor(1.0))
        ],
        *[("per_repeat", value, ValueError) for value in ([0.0], [math.inf])],
        *[(name, [1.0], (TypeError, ValueError)) for name in ("zoom_lrs", "zoom_losses", "zoom_smoothed")],
        *[(name, None, TypeError) for name in ("zoom_lrs", "zoom_losses", "zoom_smoothed")],
    ],
)
def test_a_wrong_field_is_a_sentence(field, value, error):
    with pytest.raises(error, match=r"^Expected `\w+` to be .*, but got "):
        replace(result(), **{field: value})


def test_numpy_numbers_and_arrays_become_python_types():
    found = replace(
        result(),
        lrs=LRS,
        losses=np.ones((1, 99), dtype=np.float32),
        smoothed=torch.ones(99),
        suggestion=np.float32(0.5),
        interval=np.array([0.25, 0.5]),
        lr_before=Fraction(1, 4),
        num_steps=np.int64(3),
        rules={"fall": np.float64(0.5)},
        per_repeat=[np.float32(0.5), None],
    )
    assert (found.lrs, found.losses, found.smoothed) == (tuple(LRS.tolist()), ((1.0,) * 99,), (1.0,) * 99)
    assert (found.suggestion, found.interval, found.lr_before, found.num_steps) == (0.5, (0.25, 0.5), 0.25, 3)
    assert (found.rules, found.per_repeat) == ({"fall": 0.5}, (0.5, None))
    assert {type(value) for value in (found.suggestion, found.lr_before, found.rules["fall"])} == {float}
    assert type(found.num_steps) is int


@pytest.mark.parametrize("value", [None, "3", b"x", 3.0, True, {}, object(), LRS])
def test_a_wrong_suggestion_or_rule_of_a_range_test_is_a_sentence(value):
    with pytest.raises(TypeError, match=r"^Expected `suggestion` to be an LRSuggestion"):
        result(suggestion=value)
    with pytest.raises(TypeError, match=r"^Expected `suggestion` to be an LRSuggestion"):
        result().with_zoom(LRS, sweep(), value)
    with pytest.raises(TypeError, match=r"^Expected `rule` to be one of 'fall', 'one_cycle'"):
        result(rule=3 if isinstance(value, str) else value)


def test_a_suggestion_of_another_sweep_is_a_sentence():
    with pytest.raises(ValueError, match=r"^Expected `suggestion` to be .* with all its rules"):
        result(suggestion=LRSuggestion())
    with pytest.raises(ValueError, match=r"^Expected `suggestion.smoothed` to be losses of shape \(70,\)"):
        result().with_zoom(lr_range(1e-5, 1, 70), np.ones(70), suggest_lr(LRS, sweep()))


@pytest.mark.parametrize("lr", [None, "3", b"x", True, [], math.nan, math.inf, 10**400, torch.ones(3)])
def test_a_wrong_used_learning_rate_is_a_sentence(lr):
    with pytest.raises((TypeError, ValueError), match=r"^Expected `lr` to be a finite number"):
        result().with_used(lr)


@pytest.mark.parametrize("values", [None, "3", b"x", 3.0, True, [], object(), np.array([])])
def test_from_dict_of_no_dict_is_a_sentence(values):
    with pytest.raises(TypeError, match=r"^Expected `values` to be a dict with the fields of LearningRateResult"):
        LearningRateResult.from_dict(values)


def test_from_dict_names_what_is_missing():
    values = {name: value for name, value in result().to_dict().items() if name not in ("lrs", "rule", "edge")}
    with pytest.raises(ValueError, match="which include lrs, rule, but got"):
        LearningRateResult.from_dict(values)


def test_a_sweep_that_stopped_early_equals_its_copies():
    """NaN is not equal to itself, but the results are."""
    lrs = lr_range(1e-6, 10, 99)
    losses = 2.3 - 2 / (1 + 1e-3 / lrs) + (lrs / 0.3) ** 4
    losses[-9:] = np.nan
    first, second = (
        LearningRateResult.from_range_test(lrs, losses, suggest_lr(lrs, losses), lr_before=0.1) for _ in range(2)
    )
    for other in (second, pickle.loads(pickle.dumps(first)), LearningRateResult.from_dict(first.to_dict())):
        assert other == first
        assert hash(other) == hash(first)
    assert first != first.with_used(0.2)
    assert first != "a result"


# --- short trainings

UNTRAINED = [2.3, 2.31, 2.29]
TRAININGS = {lr: [2.3 - fall * step / 50 for step in range(50)] for lr, fall in ((0.01, 1.0), (0.03, 1.5), (0.1, 0.5))}


def trained(**kwargs):
    lrs = np.geomspace(1e-6, 10, 99)
    losses = 2.3 - 2 / (1 + 1e-3 / lrs) + (lrs / 0.3) ** 4
    result = LearningRateResult.from_range_test(lrs, losses, suggest_lr(lrs, losses), lr_before=0.1, planned_steps=400)
    trainings = {**TRAININGS, 0.3: [2.3, 9.0]}
    return result.with_trainings(trainings, choose_rate(trainings, 50, UNTRAINED), **kwargs)


def test_the_suggestion_of_short_trainings_and_what_it_rests_on():
    result = trained(checked_losses=[2.3, 1.0], note="A note.", seconds=2.0)
    choice = choose_rate({**TRAININGS, 0.3: [2.3, 9.0]}, 50, UNTRAINED)
    assert result.suggestion == result.rules["trainings"] == choice.lr
    assert (result.rule, result.interval, result.note) == ("trainings", choice.interval, "A note.")
    assert result.trained_lrs == (0.01, 0.03, 0.1, 0.3)
    assert np.shape(result.trained_losses) == (4, 50)
    assert np.isfinite(result.trained_losses).sum(axis=1).tolist() == [50, 50, 50, 2]
    assert result.num_steps == 99 + 3 * 50 + 2 + 2
    assert result.why.startswith(
        "by 4 short trainings of 50 steps, checked over 2; the best rate is likely between 0.00823 and "
    )
    assert result.why in str(result)
    ends = {row[0]: row[2] for row in result.table()[1]}
    assert ends["lowest"] == ends["highest"] == "the best rate is likely between the lowest and the highest"
    assert "(the training: 400 steps)" in str(result)
    assert result.lr_used == result.lr_before == 0.1


def test_short_trainings_survive_json_and_pickle():
    result = trained()
    again = LearningRateResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again == result == pickle.loads(pickle.dumps(result))
    assert again.trained_losses[3][0] == 2.3
    assert np.isnan(again.trained_losses[3][2])


def test_trainings_that_found_nothing_leave_no_suggestion():
    flat = {lr: [2.3] * 50 for lr in (0.01, 0.03)}
    lrs = np.geomspace(1e-6, 10, 99)
    losses = 2.3 - 2 / (1 + 1e-3 / lrs) + (lrs / 0.3) ** 4
    result = LearningRateResult.from_range_test(lrs, losses, suggest_lr(lrs, losses), lr_before=0.1)
    result = result.with_trainings(flat, choose_rate(flat, 50, UNTRAINED))
    assert result.suggestion is result.rules["trainings"] is None
    assert result.rules["fall"] is not None
    assert "No short training lowered the loss" in str(result)


@pytest.mark.parametrize(
    ("losses", "error"), [({}, ValueError), ([1.0], TypeError), ({0.0: [1.0]}, ValueError), ({"a": [1.0]}, TypeError)]
)
def test_wrong_trainings(losses, error):
    with pytest.raises(error, match="Expected `losses` to be"):
        trained().with_trainings(losses, choose_rate(TRAININGS, 50, UNTRAINED))
