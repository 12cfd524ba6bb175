"""The result as data: what it says, and that it survives every way a result travels."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest

from lightning_hp import BatchBound, BatchSizeResult, BatchTrial, LRFindResult
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


# --- the batch size


def batch_result(**changes):
    found = {
        "batch_size": 64,
        "accumulate_grad_batches": 1,
        "world_size": 1,
        "decided_by": "throughput",
        "bounds": (
            BatchBound("memory", "at most", 700, "4000 MiB, free memory"),
            BatchBound("classes", "at least", None, "nothing asked"),
            BatchBound("throughput", "fast from", 64, "within 5% of 476 samples/s"),
        ),
        "trials": (
            BatchTrial(32, True, 379.0, 100 * 2**20),
            BatchTrial(64, True, 471.0),
            BatchTrial(1024, False, reason="OutOfMemoryError: CUDA out of memory."),
        ),
        "batch_size_before": 32,
        "batch_size_used": 64,
        "accumulate_before": 1,
        "base_batch_size": 32,
        "lr_before": 0.1,
        "lr_scaled": 0.2,
        "lr_used": 0.1,
        "lr_rule": "linear",
        "notes": ("Mind the step.",),
        "num_steps": 9,
        "seconds": 1.25,
    }
    return BatchSizeResult(**{**found, **changes})


def unscaled():
    return batch_result(lr_before=None, lr_scaled=None, lr_used=None, lr_rule=None, notes=(), trials=(), bounds=())


def test_the_effective_batch_is_the_product_and_k_its_growth():
    found = batch_result(accumulate_grad_batches=3, world_size=2, base_batch_size=48)
    assert found.effective_batch_size == 64 * 3 * 2
    assert found.k * found.base_batch_size == found.effective_batch_size
    assert batch_result(base_batch_size=256).k == 0.25


def test_found_used_and_before_are_kept_apart():
    used = batch_result(batch_size_used=32).used(np.int64(64), 0.2)
    assert (used.batch_size, used.batch_size_before, used.batch_size_used) == (64, 32, 64)
    assert type(used.batch_size_used) is int
    assert (used.lr_before, used.lr_scaled, used.lr_used) == (0.1, 0.2, 0.2)
    assert batch_result().lr_used == 0.1  # the first one stays as it was


@pytest.mark.parametrize("make", [batch_result, unscaled])
def test_a_batch_size_travels_through_json(make):
    found = make()
    again = BatchSizeResult.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again == found
    assert hash(again) == hash(found)
    assert BatchSizeResult.from_dict({**found.to_dict(), "colour": "blue"}) == found


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
@pytest.mark.parametrize("make", [batch_result, unscaled])
def test_a_batch_size_is_copied_and_pickled(make, travel):
    assert travel(make()) == make()


def test_a_batch_size_is_frozen():
    for thing in (batch_result(), batch_result().trials[0], batch_result().bounds[0]):
        with pytest.raises(FrozenInstanceError):
            thing.batch_size = 1


def test_a_batch_size_reads_well():
    assert str(batch_result()).splitlines() == [
        "Batch size 64 (was 32): throughput decided",
        "  memory: at most 700 (4000 MiB, free memory)",
        "  classes: nothing asked",
        "  throughput: fast from 64 (within 5% of 476 samples/s)",
        "  learning rate 0.1 x 2 (linear) = 0.2",
        "  Mind the step.",
        "  9 steps in 1.2 s",
    ]
    assert str(unscaled()).splitlines() == ["Batch size 64 (was 32): throughput decided", "  9 steps in 1.2 s"]


def test_accumulated_batches_are_spelled_out():
    found = batch_result(accumulate_grad_batches=3, world_size=2)
    assert str(found).splitlines()[1] == "  384 samples for one optimizer step: 64 x 3 batches x 2 processes"


def test_a_rate_of_zero_stays_zero():
    found = batch_result(lr_before=0.0, lr_scaled=0.0, lr_used=0.0)
    assert "  learning rate 0 x 1 (linear) = 0" in str(found).splitlines()
    assert ["learning rate scaled", 0.0, "linear scaled, k = 2"] in found.table()[1]


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (0.0, "0"),
        (2.4e-7, "2e-07"),
        (0.00099, "1e-03"),
        (0.0694, "0.069"),
        (0.9994, "0.999"),
        (0.9996, "> 0.999"),
        (1 - 1e-9, "> 0.999"),
        (1.0, "1"),
    ],
)
def test_a_probability_is_never_rounded_to_a_certainty(probability, text):
    line = str(batch_result(class_probability=probability, min_per_class=3)).splitlines()[4]
    assert line == f"  a step shows every class 3 times or more with probability {text}"


def test_the_tables_have_a_row_for_each_bound_and_each_trial():
    found = batch_result().used(64, 0.2)
    header, rows = found.table()
    assert all(len(row) == len(header) for row in rows)
    values = {row[0]: row[1] for row in rows}
    assert (values["found"], values["before"], values["used"], values["effective"]) == (64, 32, 64, 64)
    assert (values["memory, at most"], values["classes, at least"]) == (700, None)
    assert [values[f"learning rate {name}"] for name in ("before", "scaled", "used")] == [0.1, 0.2, 0.2]
    assert rows[-1] == ["note", None, "Mind the step."]
    header, rows = found.trials_table()
    assert header == ["batch size", "fits", "samples/s", "peak MiB"]
    assert rows == [
        [32, "yes", 379.0, 100.0],
        [64, "yes", 471.0, None],
        [1024, "no: OutOfMemoryError: CUDA out of memory.", None, None],
    ]
    assert "learning rate before" not in {row[0] for row in unscaled().table()[1]}
