"""No argument of a public function gives an error from deep inside."""

from __future__ import annotations

import pytest

import lightning_hp.functional as hpf
from tests.functional.learning_rate.wrong_values import WRONG, answers_or_refuses, check_refusals

CLASSES = {"class_counts": [30, 50, 20], "min_per_class": 2}
THROUGHPUT = {"samples_per_second": {8: 1.0, 16: [1.9, 2.0]}, "within": 0.05}
POINTS = [(8, 100.0), (16, 180.0)]
SEARCH = {
    "fits": lambda size: size <= 20,
    "init_val": 2,
    "min_val": 1,
    "max_val": 64,
    "round_to": 1,
    "margin": 0.1,
    "tolerance": 0.0,
    "predict": lambda: 19,
    "max_jump": 2.0,
    "max_trials": 9,
}
CALLS = [
    (hpf.coverage_probability, CLASSES | {"batch_size": 20, "replacement": False}),
    (hpf.covered_share, CLASSES | {"batch_size": 20, "replacement": False}),
    (hpf.batch_size_for_coverage, CLASSES | {"coverage": 0.9, "replacement": True}),
    (hpf.batch_size_for_share, CLASSES | {"share": 0.9, "replacement": True}),
    (hpf.batch_size_for_average, CLASSES),
    (hpf.predict_batch_size, {"points": POINTS, "budget": 300.0}),
    (hpf.predict_peak, {"points": POINTS, "batch_size": 32}),
    (hpf.throughput_knee, THROUGHPUT),
    (hpf.throughput_is_flat, THROUGHPUT),
    (hpf.next_rung, THROUGHPUT | {"max_val": 64, "min_val": 4}),
    (hpf.search_batch_size, SEARCH),
]


@pytest.mark.parametrize(
    ("function", "right", "argument"),
    [
        pytest.param(function, right, argument, id=f"{function.__name__}-{argument}")
        for function, right in CALLS
        for argument in right
        if argument != "fits"
    ],
)
def test_each_wrong_value_is_answered_or_refused_with_a_sentence(function, right, argument):
    check_refusals(function, right, argument)


@pytest.mark.parametrize("function", [hpf.predict_batch_size, hpf.predict_peak])
def test_wrong_points(function):
    rest = {"budget": 300.0} if function is hpf.predict_batch_size else {"batch_size": 32}
    for points in (
        [[value] for value in WRONG] + [[(value, 1.0)] for value in WRONG] + [[(1, value)] for value in WRONG]
    ):
        answers_or_refuses(function, points=points, **rest)


@pytest.mark.parametrize("function", [hpf.throughput_knee, hpf.throughput_is_flat])
def test_wrong_throughputs(function):
    for value in WRONG:
        answers_or_refuses(function, samples_per_second={8: 1.0, 16: value})
    for key in (None, "8", 8.0, 0, True, 10**400):
        answers_or_refuses(function, samples_per_second={key: 1.0})


def test_wrong_predictions():
    for value in WRONG:
        answers_or_refuses(hpf.search_batch_size, **SEARCH | {"predict": lambda value=value: value})
