"""Optimizers whose steps get shorter by themselves, against their own steps over equal gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RMSprop

from lightning_hp.functional.learning_rate.shrinking_steps import has_shrinking_steps


@pytest.mark.parametrize(
    "build",
    [
        SGD,
        lambda params: SGD(params, 1e-3, momentum=0.9, nesterov=True),
        Adam,
        AdamW,
        Adamax,
        NAdam,
        Adagrad,
        RMSprop,
        lambda params: RMSprop(params, alpha=0.95),
        type("MyRMSprop", (RMSprop,), {}),
    ],
)
def test_whether_steps_get_shorter(build: Callable[[list[torch.nn.Parameter]], Optimizer]) -> None:
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.double))
    optimizer = build([weight])
    gradients = torch.Generator().manual_seed(0)
    steps = []
    for _ in range(400):
        before = weight.item()
        weight.grad = 1 + 0.1 * torch.randn(1, generator=gradients, dtype=torch.double)
        optimizer.step()
        steps.append(abs(weight.item() - before))
    assert has_shrinking_steps(optimizer) == (max(steps[:40]) > 2 * max(steps[-40:]))
