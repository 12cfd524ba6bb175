"""The result as data: what it says, and that it survives every way a result travels."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest

from lightning_hp import LRFindResult
from lightning_hp.functional import lr_range, suggest_lr

LRS = lr_range(1e-6, 10, 99)


def sweep(seed=0, lrs=LRS):
    losses = 2.3 - 2 / (1 + 1e-3 / lrs) + (lrs / 0.3) ** 4 + np.random.default_rng(seed).normal(0, 0.02, len(lrs))
    return np.where(losses > 20, np.nan, losses)


def result(losses=None, **kwargs):
    losses = np.stack([sweep(0), sweep(1)]) if losses is None else losses
    return LRFindResult.from_sweep(LRS, losses, suggest_lr(LRS, losses), lr_before=0.1, seconds=2.0, **kwargs)


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
    used = found.used(0.02)
    assert (used.lr_before, used.lr_used, used.suggestion) == (0.1, 0.02, found.suggestion)


def test_the_sweep_is_plain_tuples_of_floats():
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
    found = LRFindResult.from_sweep(LRS, losses, suggest_lr(LRS, losses), lr_before=0.1, rule="valley")
    assert found.rules["fall"] is not None
    assert found.suggestion is None
    assert found.reason == "The rule 'valley' finds nothing on this curve."


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match=r"one of fall, one_cycle, half, .* but got 'auto'"):
        result(rule="auto")


@pytest.mark.parametrize("make", [result, refused])
def test_json_and_back(make):
    found = make()
    text = json.dumps(found.to_dict(), allow_nan=False)
    again = LRFindResult.from_dict(json.loads(text))
    assert again.to_dict() == found.to_dict()
    assert again.lrs == found.lrs
    np.testing.assert_array_equal(np.array(again.losses), np.array(found.losses))
    assert again.interval == found.interval
    assert {type(getattr(again, f.name)) for f in fields(again)} == {
        type(getattr(found, f.name)) for f in fields(found)
    }


def test_an_infinite_signal_travels_through_json():
    exact = result(np.interp(np.log10(LRS), [-6, -4, -1, 1], [0, 0, -1, -1]))
    assert exact.signal == math.inf
    assert LRFindResult.from_dict(json.loads(json.dumps(exact.to_dict(), allow_nan=False))).signal == math.inf


def test_entries_of_other_versions_are_left_out():
    assert LRFindResult.from_dict({**result().to_dict(), "colour": "blue"}).suggestion == result().suggestion


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
@pytest.mark.parametrize("make", [result, refused])
def test_copy_and_pickle(make, travel):
    assert travel(make()).to_dict() == make().to_dict()


def test_it_is_frozen():
    with pytest.raises(FrozenInstanceError):
        result().suggestion = 1.0


def test_it_reads_well():
    lines = str(result().used(0.002)).splitlines()
    assert lines[0].startswith("Learning rate 0.00")
    assert "two thirds of the fall" in lines[0]
    assert "fair choice" in lines[0]
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
    found = LRFindResult.from_sweep(lrs, losses, suggest_lr(lrs, losses), lr_before=0.1)
    assert found.note in str(found)


def test_the_table_has_a_row_for_each_rule():
    header, rows = result().used(0.002).table()
    assert all(len(row) == len(header) for row in rows)
    values = {row[0]: row[1] for row in rows}
    assert values["used"] == 0.002
    assert values["before"] == 0.1
    assert {name: values[name] for name in result().rules} == dict(result().rules)
    assert refused().table()[1][0] == ["suggested", None, refused().reason]


def test_a_zoomed_sweep_has_the_say():
    wide, lrs = result(), lr_range(1e-5, 1, 70)
    zoomed = wide.zoomed(lrs, sweep(2, lrs), suggest_lr(lrs, sweep(2, lrs)), seconds=1.0)
    assert zoomed.suggestion == suggest_lr(lrs, sweep(2, lrs)).lr
    assert zoomed.lrs == wide.lrs
    assert zoomed.zoom_lrs == tuple(lrs.tolist())
    assert zoomed.num_steps == wide.num_steps + np.isfinite(sweep(2, lrs)).sum()
    assert zoomed.seconds == 3.0
    assert LRFindResult.from_dict(zoomed.to_dict()).to_dict() == zoomed.to_dict()


def test_after_a_zoom_the_rules_of_others_and_the_edge_are_those_of_the_whole_sweep():
    wide = result()
    lrs = lr_range(1e-5, wide.edge, 70)
    part = suggest_lr(lrs, sweep(2, lrs))
    zoomed = wide.zoomed(lrs, sweep(2, lrs), part)
    for name in ("steepest", "valley", "slide", "minimum"):
        assert zoomed.rules[name] == wide.rules[name]
    for name in ("fall", "one_cycle", "half"):
        assert zoomed.rules[name] == part.rules[name]
    assert part.edge is None
    assert (zoomed.edge, zoomed.note) == (wide.edge, wide.note)


def test_a_zoomed_sweep_that_shows_too_little_does_not():
    wide, lrs = result(), lr_range(1e-4, 1e-2, 20)
    zoomed = wide.zoomed(lrs, np.full(20, 2.3), suggest_lr(lrs, np.full(20, 2.3)))
    assert zoomed.suggestion == wide.suggestion
    assert zoomed.reason is None
    assert zoomed.zoom_losses == ((2.3,) * 20,)
