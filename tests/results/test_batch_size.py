"""BatchSizeResult, BatchTrial, BatchBound: fields, text and tables, checked arguments, copies, pickle and JSON."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lightning_hp import BatchBound, BatchSizeResult, BatchTrial


def result(**changes):
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
    return result(lr_before=None, lr_scaled=None, lr_used=None, lr_rule=None, notes=(), trials=(), bounds=())


def test_the_effective_batch_is_the_product_and_k_its_growth():
    found = result(accumulate_grad_batches=3, world_size=2, base_batch_size=48)
    assert found.effective_batch_size == 64 * 3 * 2
    assert found.k * found.base_batch_size == found.effective_batch_size
    assert result(base_batch_size=256).k == 0.25


def test_found_used_and_before_are_kept_apart():
    used = result(batch_size_used=32).with_used(np.int64(64), 0.2)
    assert (used.batch_size, used.batch_size_before, used.batch_size_used) == (64, 32, 64)
    assert type(used.batch_size_used) is int
    assert (used.lr_before, used.lr_scaled, used.lr_used) == (0.1, 0.2, 0.2)
    assert result().lr_used == 0.1  # the first one stays as it was


@pytest.mark.parametrize("make", [result, unscaled])
def test_json_and_back(make):
    found = make()
    again = BatchSizeResult.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again == found
    assert hash(again) == hash(found)
    assert BatchSizeResult.from_dict({**found.to_dict(), "colour": "blue"}) == found


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
@pytest.mark.parametrize("make", [result, unscaled])
def test_copy_and_pickle(make, travel):
    assert travel(make()) == make()


def test_it_is_frozen():
    for thing in (result(), result().trials[0], result().bounds[0]):
        with pytest.raises(FrozenInstanceError):
            thing.batch_size = 1


def test_it_reads_well():
    assert str(result()).splitlines() == [
        "Batch size 64 (before 32), decided by throughput",
        "  memory: at most 700 (4000 MiB, free memory)",
        "  classes: nothing asked",
        "  throughput: fast from 64 (within 5% of 476 samples/s)",
        "  learning rate would be scaled: 0.1 x 2 (linear) = 0.2",
        "  Mind the step.",
        "  9 steps in 1.2 s",
    ]
    assert "  learning rate scaled: 0.1 x 2 (linear) = 0.2" in str(result(lr_used=0.2)).splitlines()
    assert str(unscaled()).splitlines() == ["Batch size 64 (before 32), decided by throughput", "  9 steps in 1.2 s"]


def test_accumulated_batches_are_spelled_out():
    found = result(accumulate_grad_batches=3, world_size=2)
    assert str(found).splitlines()[1] == "  384 samples per optimizer step: 64 x 3 batches x 2 processes"


def test_a_rate_of_zero_stays_zero():
    found = result(lr_before=0.0, lr_scaled=0.0, lr_used=0.0)
    assert "  learning rate scaled: 0 x 1 (linear) = 0" in str(found).splitlines()
    assert ["learning rate scaled", 0.0, "linear scaled, k = 2"] in found.table()[1]


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (0.0, "0"),
        (2.4e-7, "at most 2e-07"),
        (0.00099, "at most 1e-03"),
        (0.0694, "at most 0.069"),
        (0.9994, "at most 0.999"),
        (0.9996, "> 0.999"),
        (1 - 1e-9, "> 0.999"),
        (1.0, "1"),
    ],
)
def test_a_probability_is_never_rounded_to_a_certainty(probability, text):
    line = str(result(class_probability=probability, min_per_class=3)).splitlines()[4]
    assert line == f"  a step contains every class 3 times or more with probability {text}"


def test_the_tables_have_a_row_for_each_bound_and_each_trial():
    found = result().with_used(64, 0.2)
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


def test_plot_returns_what_the_plotting_function_returns():
    axes = tuple(Figure().subplots(2, 1))
    assert result().plot(axes) == axes
    assert result().plot()[0].get_title(loc="left") == "Batch size 64"


# --- checked arguments

NO_NUMBERS = ["3", b"x", True, {}, object(), [], torch.ones(3), np.array([])]
NO_FINITE_NUMBERS = [math.nan, math.inf, -(10**400)]
NO_INTS = [*NO_NUMBERS, None, 3.0, Fraction(7, 2), math.nan]
NO_STRINGS = [b"x", 3, 3.0, True, {}, object(), [], torch.ones(3), np.array([])]
COUNTS = ["batch_size", "accumulate_grad_batches", "world_size", "batch_size_before", "batch_size_used"]
COUNTS += ["accumulate_before", "base_batch_size"]
COUNTS_OR_ZERO = ["warmup_steps", "min_per_class", "num_steps", "num_loader_builds"]
LRS = ["lr_before", "lr_scaled", "lr_used"]


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        *[(name, value, TypeError) for name in (*COUNTS, *COUNTS_OR_ZERO) for value in NO_INTS],
        *[(name, 0, ValueError) for name in COUNTS],
        *[(name, -1, ValueError) for name in COUNTS_OR_ZERO],
        *[(name, value, TypeError) for name in (*LRS, "class_probability", "seconds") for value in NO_NUMBERS],
        *[(name, v, ValueError) for name in (*LRS, "class_probability", "seconds") for v in NO_FINITE_NUMBERS],
        ("class_probability", 1.5, ValueError),
        ("seconds", None, TypeError),
        *[("decided_by", value, TypeError) for value in [*NO_STRINGS, None]],
        *[("lr_rule", value, TypeError) for value in NO_STRINGS],
        ("lr_rule", "cubic", ValueError),
        *[(name, v, TypeError) for name in ("bounds", "trials", "notes") for v in (None, "3", b"x", 3.0, True, [1])],
        *[(name, v, TypeError) for name in ("bounds", "trials") for v in (object(), ["3"], torch.tensor(1), [None])],
    ],
)
def test_a_wrong_field_is_a_sentence(field, value, error):
    with pytest.raises(error, match=f"^Expected `{field}` to be .*, but got "):
        result(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        *[("batch_size", value, TypeError) for value in NO_INTS],
        ("batch_size", 0, ValueError),
        *[("fitted", value, TypeError) for value in ("3", None, 1, [], np.array([]))],
        *[("samples_per_second", value, TypeError) for value in NO_NUMBERS],
        *[("samples_per_second", value, ValueError) for value in (math.nan, -1.0)],
        *[("peak_bytes", value, TypeError) for value in NO_INTS if value is not None],
        ("peak_bytes", -1, ValueError),
        *[("reason", value, TypeError) for value in NO_STRINGS],
    ],
)
def test_a_wrong_field_of_a_trial_is_a_sentence(field, value, error):
    with pytest.raises(error, match=f"^Expected `{field}` to be .*, but got "):
        BatchTrial(**{"batch_size": 8, "fitted": True, field: value})


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        *[(name, value, TypeError) for name in ("name", "kind", "detail") for value in [*NO_STRINGS, None]],
        ("kind", "about", ValueError),
        *[("size", value, TypeError) for value in NO_INTS if value is not None],
        ("size", -1, ValueError),
    ],
)
def test_a_wrong_field_of_a_bound_is_a_sentence(field, value, error):
    with pytest.raises(error, match=f"^Expected `{field}` to be .*, but got "):
        BatchBound(**{"name": "data", "kind": "at most", "size": 8, "detail": "", field: value})


def test_numpy_numbers_become_python_numbers():
    trial = BatchTrial(np.int64(8), np.True_, np.float32(2.5), np.int32(3))
    assert [type(value) for value in (trial.batch_size, trial.fitted, trial.samples_per_second, trial.peak_bytes)] == [
        int, bool, float, int,
    ]  # fmt: skip
    found = result(batch_size=np.int64(8), lr_before=np.float32(0.5), trials=[trial], notes=["a"])
    assert (type(found.batch_size), type(found.lr_before)) == (int, float)
    assert (found.trials, found.notes) == ((trial,), ("a",))


@pytest.mark.parametrize("value", ["3", b"x", True, [], math.nan, torch.ones(3)])
def test_wrong_used_values_are_a_sentence(value):
    with pytest.raises((TypeError, ValueError), match=r"^Expected `batch_size` to be an int >= 1"):
        result().with_used(value, 0.1)
    with pytest.raises((TypeError, ValueError), match=r"^Expected `lr` to be a finite number, or None"):
        result().with_used(8, value)


@pytest.mark.parametrize("values", [None, "3", b"x", 3.0, True, [], object(), np.array([])])
def test_from_dict_of_no_dict_is_a_sentence(values):
    with pytest.raises(TypeError, match=r"^Expected `values` to be a dict with the fields of BatchSizeResult"):
        BatchSizeResult.from_dict(values)
    with pytest.raises(TypeError, match=r"^Expected `trials` to be a tuple of "):
        BatchSizeResult.from_dict({**result().to_dict(), "trials": [values]})


def test_from_dict_names_what_is_missing():
    values = result().to_dict()
    del values["batch_size"], values["bounds"]
    with pytest.raises(ValueError, match="which include batch_size, bounds, but got"):
        BatchSizeResult.from_dict(values)
    with pytest.raises(ValueError, match="with the fields of BatchTrial, which include batch_size, fitted"):
        BatchSizeResult.from_dict({**result().to_dict(), "trials": [{}]})
