"""Optimizers whose ``lr`` is not a learning rate, by the names that their packages give them."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer

from lightning_hp.functional.learning_rate.parameter_free import parameter_free_name


def optimizer_called(*names, lr=1.0):
    base = torch.optim.SGD
    for name in names:
        base = type(name, (base,), {})
    return base([torch.nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize(
    "name",
    ["Prodigy", "ProdigyPlusScheduleFree", "DAdaptAdam", "DAdaptSGD", "DAdaptAdaGrad", "DAdaptLion", "DoG", "LDoG",
     "Mechanic", "MechanizedAdamW"],
)  # fmt: skip
def test_known_ones(name):
    assert parameter_free_name(optimizer_called(name)) == name
    assert parameter_free_name(optimizer_called(name, "MyOptimizer")) == name
    assert name in parameter_free_name(LightningOptimizer(optimizer_called(name)))


@pytest.mark.parametrize("name", ["SGDScheduleFree", "AdamWScheduleFree", "AdamW", "Dogwood", "Adafactor"])
def test_others_have_a_rate(name):
    assert parameter_free_name(optimizer_called(name)) is None


def test_a_rate_of_none():
    optimizer = optimizer_called("Adafactor")
    optimizer.param_groups[0]["lr"] = None
    assert parameter_free_name(optimizer) == "Adafactor with lr=None"
