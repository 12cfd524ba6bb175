"""No argument of a public function gives an error from deep inside."""

from __future__ import annotations

import pytest

import lightning_hp.functional as hpf
from lightning_hp.functional.learning_rate.suggestion import falling_part
from tests.functional.learning_rate.wrong_values import check_refusals

LRS = hpf.lr_range(1e-5, 1, 40).tolist()
LOSSES = [1 / (1 + (lr / 1e-2) ** 2) for lr in LRS]
SWEEP = {"lrs": LRS, "losses": LOSSES}
CALLS = [
    (hpf.lr_range, {"min_lr": 1e-3, "max_lr": 1.0, "num_training_steps": 5, "mode": "linear"}),
    (hpf.steepest_lr, SWEEP),
    (hpf.steep_lr, SWEEP),
    (hpf.valley_lr, SWEEP),
    (hpf.slide_lr, SWEEP),
    (hpf.minimum_lr, SWEEP),
    (hpf.suggest_lr, SWEEP | {"bandwidth": 0.25, "min_signal": 5.0}),
    (falling_part, {"lrs": LRS, "suggestion": hpf.suggest_lr(LRS, LOSSES)}),
    (hpf.scale_lr, {"base_lr": 0.1, "batch_size": 64, "base_batch_size": 32, "rule": "linear"}),
    (hpf.scaling_rule, {"optimizer": "SGD"}),
    (
        hpf.scaling_advice,
        {
            "batch_size": 64,
            "base_batch_size": 32,
            "rule": "sqrt",
            "num_training_steps": 9,
            "optimizer": "SGD",
            "has_warmup": True,
        },
    ),
    (
        hpf.warmup_steps,
        {"batch_size": 64, "base_batch_size": 8, "rule": "linear", "num_training_steps": 99, "steps_per_epoch": 9},
    ),
    (hpf.warmup_lr, {"step": 3, "base_lr": 0.1, "scaled_lr": 0.8, "num_warmup_steps": 7}),
]


@pytest.mark.parametrize(
    ("function", "right", "argument"),
    [
        pytest.param(function, right, argument, id=f"{function.__name__}-{argument}")
        for function, right in CALLS
        for argument in right
    ],
)
def test_each_wrong_value_is_answered_or_refused_with_a_sentence(function, right, argument):
    check_refusals(function, right, argument)
