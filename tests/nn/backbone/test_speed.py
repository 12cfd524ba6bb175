"""Inference speed with a clock of known times."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from lightning_hp import Backbone, InferenceSpeed
from lightning_hp.nn.backbone import speed as speed_module
from tests.nn.backbone.models import LastToken, mlp
from tests.nn.backbone.test_backbone import assert_same, everything, mixed_modes, streams


class Timed(nn.Module):
    """Takes 2 ms, and 1 ms for each sample, by its own clock; every tenth call takes a second."""

    slow_every = 10

    def __init__(self):
        super().__init__()
        self.net, self.now, self.calls, self.modes = mlp(), 0.0, [], []

    def forward(self, x):
        if not x.is_meta:
            self.calls.append(len(x))
            self.modes.append((self.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            self.now += 1.0 if len(self.calls) % self.slow_every == 0 else 2e-3 + 1e-3 * len(x)
        return self.net(x)


@pytest.fixture
def timed(monkeypatch):
    backbone = Backbone(Timed())
    monkeypatch.setattr(speed_module.time, "perf_counter", lambda: backbone.model.now)
    return backbone


@pytest.mark.parametrize(("slow_every", "p90"), [(10, 3.0), (5, 1000.0)])  # 2 and 4 of 20 are slow
def test_latency_and_throughput(timed, slow_every, p90):
    timed.model.slow_every = slow_every
    result = timed.inference_speed(batch_size=8, num_batches=20)
    assert timed.model.calls == [1] * 23 + [8] * 23
    assert result.latency_ms == pytest.approx(3.0)
    assert result.throughput == pytest.approx(8 / 10e-3)
    assert result.latency_p90_ms == pytest.approx(p90)
    assert result.parameters == 6 * 8 + 8
    assert (result.name, result.feature_dim, result.batch_size, result.device) == ("Timed", 8, 8, "cpu")
    assert result.dtype == "float32"
    assert set(timed.model.modes) == {(False, False, True)}


def test_with_a_real_clock_more_work_takes_longer():
    small, large = (Backbone(nn.Sequential(nn.Linear(w, w), nn.ReLU(), nn.Linear(w, 2))) for w in (8, 2048))
    fast, slow = (backbone.inference_speed(batch_size=64, num_batches=15) for backbone in (small, large))
    assert 0 < fast.latency_ms < slow.latency_ms
    assert fast.throughput > slow.throughput


@pytest.mark.gpu
def test_on_an_accelerator():
    result = Backbone(nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 2))).cuda().inference_speed()
    assert result.device.startswith("cuda")
    assert result.latency_ms > 0


def test_the_model_does_not_change():
    backbone = Backbone(mixed_modes(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2))))
    before, drawn = everything(backbone), streams()
    backbone.inference_speed(batch_size=4, num_batches=2)
    assert streams() == drawn
    assert_same(before, everything(backbone))


def test_modes_are_restored_after_an_error(timed):
    timed.train()
    timed.model.net[0].eval()
    before = everything(timed)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        timed.inference_speed(example_input=torch.zeros(1, 7))
    assert_same(before, everything(timed))


def test_tokens_and_an_example():
    result = Backbone(LastToken()).inference_speed(
        batch_size=2, num_batches=1, example_input=torch.zeros(1, 30, dtype=torch.long)
    )
    assert result.input == "input (30,)"


def test_a_result_is_frozen_and_serialisable():
    result = Backbone(mlp()).inference_speed(batch_size=2, num_batches=1)
    assert InferenceSpeed(**json.loads(json.dumps(result.to_dict()))) == result
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.latency_ms = 0.0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"batch_size": 0}, ValueError),
        ({"num_batches": 0}, ValueError),
        ({"batch_size": 1.5}, TypeError),
        ({"batch_size": True}, TypeError),
        ({"num_batches": "3"}, TypeError),
        ({"batch_size": 10**400}, ValueError),
    ],
)
def test_refuses(options, error):
    with pytest.raises(error, match=f"`{next(iter(options))}` to be an int from 1 to"):
        Backbone(mlp()).inference_speed(**options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": None}, TypeError),
        ({"latency_ms": math.nan}, ValueError),
        ({"throughput": "900"}, TypeError),
        ({"batch_size": 0}, ValueError),
        ({"parameters": 2.5}, TypeError),
        ({"device": torch.device("cpu")}, TypeError),
    ],
)
def test_a_result_checks_its_fields(options, error):
    result = Backbone(mlp()).inference_speed(batch_size=2, num_batches=1)
    with pytest.raises(error, match=f"Expected `{next(iter(options))}` to be"):
        dataclasses.replace(result, **options)
