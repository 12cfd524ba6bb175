"""Scaling against the published figures and its own algebra; the convention of timm; the warm-up step by step."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from lightning_hp.functional import scale_lr, scaling_advice, scaling_rule, warmup_lr, warmup_steps

# --- the rules


def test_the_recipe_of_goyal_et_al():
    assert scale_lr(0.1, 8192, 256) == 3.2
    assert scale_lr(0.1, 8192, 256, "sqrt") == pytest.approx(0.1 * 32**0.5)


@pytest.mark.parametrize("k", [1, 2, 3, 7, 8, 16, 1000])
def test_k_times_the_batch_is_k_times_the_rate(k):
    assert scale_lr(0.3, 24 * k, 24) == 0.3 * k
    assert scale_lr(0.3, 24 * k, 24, "sqrt") ** 2 == pytest.approx(0.3**2 * k)
    assert scale_lr(0.3, 24 * k, 24, None) == 0.3


@pytest.mark.parametrize("rule", ["linear", "sqrt", None])
@pytest.mark.parametrize("sizes", [(32, 256), (256, 32), (48, 7)])
def test_there_and_back_and_in_two_steps(rule, sizes):
    base, batch_size = sizes
    there = scale_lr(0.02, batch_size, base, rule)
    assert scale_lr(there, base, batch_size, rule) == pytest.approx(0.02)
    assert scale_lr(scale_lr(0.02, 99, base, rule), batch_size, 99, rule) == pytest.approx(there)


def test_what_each_rule_keeps():
    """SGD with independent gradients: linear keeps the drift of an epoch, sqrt the variance of a step."""
    base_lr, base, batch_size, samples = 0.1, 32, 128, 4096
    linear, sqrt = (scale_lr(base_lr, batch_size, base, rule) for rule in ("linear", "sqrt"))
    assert linear * samples / batch_size == pytest.approx(base_lr * samples / base)
    assert sqrt**2 / batch_size == pytest.approx(base_lr**2 / base)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((0.0, 8, 8), ValueError, "`base_lr` to be a finite number > 0, but got 0.0"),
        ((-1, 8, 8), ValueError, "`base_lr`"),
        ((math.nan, 8, 8), ValueError, "`base_lr`"),
        ((math.inf, 8, 8), ValueError, "`base_lr`"),
        ((0.1, 0, 8), ValueError, "`batch_size` to be an int >= 1, but got 0"),
        ((0.1, 8.5, 8), TypeError, "`batch_size` to be an int >= 1, but got 8.5"),
        ((0.1, 8, -2), ValueError, "`base_batch_size` to be an int >= 1, but got -2"),
        ((0.1, 8, math.nan), TypeError, "`base_batch_size`"),
        ((0.1, 8, math.inf), TypeError, "`base_batch_size`"),
        ((0.1, 8, 8, "cubic"), ValueError, "one of 'linear', 'sqrt', or None .* but got 'cubic'"),
        ((0.1, 8, 8, "auto"), ValueError, "`scaling_rule` tells which of them 'auto' is"),
    ],
)
def test_scale_lr_refuses(args, error, message):
    with pytest.raises(error, match=message):
        scale_lr(*args)


# --- which rule for which optimizer


def test_torch_optimizers_by_the_convention_of_timm_and_rmsprop():
    for name in (name for name, value in vars(torch.optim).items() if isinstance(value, type)):
        timm = "sqrt" if any(part in name.lower() for part in ("ada", "lamb")) else "linear"
        assert scaling_rule(name) == ("sqrt" if name == "RMSprop" else timm)


@pytest.mark.parametrize(
    "name", ["adam", "FusedAdam", "AdamW8bit", "NAdam", "RAdam", "Adafactor", "FusedLAMB", "lambc"]
)
def test_adam_like(name):
    assert scaling_rule(name) == "sqrt"


@pytest.mark.parametrize("name", ["SGD", "sgd", "SGDW", "LARS", "Lion", "Muon", "momentum", "ASGD", "Rprop"])
def test_sgd_like(name):
    assert scaling_rule(name) == "linear"


def test_a_name_is_needed():
    with pytest.raises(ValueError, match="name of an optimizer such as 'AdamW', but got ''"):
        scaling_rule("")


# --- warm-up


def test_warmup_of_goyal_et_al():
    """ImageNet at 8192: 156 steps an epoch, five of ninety epochs from 0.1 to 3.2."""
    steps = warmup_steps(8192, 256, "linear", num_training_steps=90 * 156, steps_per_epoch=156)
    assert steps == 5 * 156
    rates = [warmup_lr(step, 0.1, 3.2, steps) for step in range(steps + 10)]
    assert rates[0] == 0.1
    assert rates[steps:] == [3.2] * 10
    np.testing.assert_allclose([b - a for a, b in itertools.pairwise(rates[: steps + 1])], 3.1 / steps)


def test_warmup_may_also_fall():
    assert [warmup_lr(step, 0.4, 0.1, 3) for step in range(4)] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert warmup_lr(0, 0.4, 0.1, 0) == 0.1


@pytest.mark.parametrize(
    ("batch_size", "rule", "steps"), [(255, "linear", 0), (256, "linear", 50), (256, "sqrt", 0), (4096, None, 0)]
)
def test_warmup_is_advised_from_eight_times_on_and_for_linear_only(batch_size, rule, steps):
    assert warmup_steps(batch_size, 32, rule, num_training_steps=1000, steps_per_epoch=10) == steps


def test_warmup_is_at_most_a_tenth():
    assert warmup_steps(256, 32, "linear", num_training_steps=1000, steps_per_epoch=100) == 100
    assert warmup_steps(256, 32, "linear", num_training_steps=1000) == 100
    assert warmup_steps(256, 32, "linear", num_training_steps=math.inf, steps_per_epoch=100) == 500
    assert warmup_steps(256, 32, "linear", num_training_steps=math.inf) == 0
    assert warmup_steps(256, 32, "linear", num_training_steps=5) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_training_steps": 0}, "`num_training_steps` to be a number >= 1, but got 0"),
        ({"num_training_steps": math.nan}, "`num_training_steps`"),
        ({"num_training_steps": 10, "steps_per_epoch": 0}, "`steps_per_epoch` to be an int >= 1, or None, but got 0"),
        ({"num_training_steps": 10, "rule": "auto"}, "`rule`"),
        ({"num_training_steps": 10, "base_batch_size": 0}, "`base_batch_size`"),
    ],
)
def test_warmup_steps_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        warmup_steps(**{"batch_size": 64, "base_batch_size": 8, "rule": "linear"} | options)


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_warmup_lr_refuses(position, value):
    args = [1, 0.1, 0.2, 10]
    args[position] = value
    error, expected = (ValueError, "a finite number") if position in (1, 2) else (TypeError, "an int")
    with pytest.raises(ValueError if value == -1 else error, match=f"to be {expected} >= 0, but got"):
        warmup_lr(*args)


# --- advice


@pytest.mark.parametrize("k", [1 / 16, 1 / 4, 1, 2, 7.5])
@pytest.mark.parametrize("rule", ["linear", "sqrt", None])
def test_nothing_is_said_where_the_rules_held(k, rule):
    assert scaling_advice(round(64 * k), 64, rule, num_training_steps=250, optimizer="SGD") == ()


def test_each_sentence_has_its_reason():
    beyond, warmup = scaling_advice(32 * 17, 32, "linear")
    assert beyond.startswith("The batch is 17 times the one the learning rate was chosen for")
    assert "warm-up" in warmup
    assert scaling_advice(32 * 16, 32, "linear") == (warmup,)
    assert "needs a warm-up" in warmup
    assert scaling_advice(32 * 17, 32, "linear", has_warmup=True) == (beyond,)
    assert scaling_advice(32 * 17, 32, "sqrt") == (beyond,)
    (shrunk,) = scaling_advice(32, 32 * 32, "sqrt")
    assert shrunk.startswith("The batch is 1/32 of the one")
    (few,) = scaling_advice(32, 32, None, num_training_steps=249)
    assert few.startswith("The training has only 249 optimizer steps")
    (adam,) = scaling_advice(64, 32, "linear", optimizer="AdamW")
    assert adam == "With AdamW the learning rate is usually scaled by the square root of 2."
    assert scaling_advice(32, 32, "linear", optimizer="AdamW") == ()
    assert scaling_advice(64, 32, "sqrt", optimizer="AdamW") == ()


@pytest.mark.parametrize(("args", "message"), [((0, 8, None), "`batch_size`"), ((8, 8, "auto"), "`rule`")])
def test_advice_refuses(args, message):
    with pytest.raises(ValueError, match=message):
        scaling_advice(*args)
