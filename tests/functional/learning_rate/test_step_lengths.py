"""Steps that get shorter or longer by themselves, against those of the optimizers over equal gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from lightning_hp.functional.learning_rate.step_lengths import has_normalised_weights, has_shrinking_steps, own_warm_up


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


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.95, 0.99), (0.9, 0.6)])
@pytest.mark.parametrize("kind", [RAdam, Adam, type("MyRAdam", (RAdam,), {})])
def test_the_warm_up_of_an_optimizer_is_that_of_its_steps(kind: type[Optimizer], betas: tuple[float, float]) -> None:
    """Over a constant gradient of one, Adam's steps have the length of the rate."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.double))
    optimizer = kind([weight], lr=0.01, betas=betas)  # type: ignore[call-arg]
    lengths = []
    for _ in range(2000):
        before = weight.item()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        lengths.append(abs(weight.item() - before) / 0.01)
    factors = [own_warm_up(optimizer, step + 1) for step in range(2000)]
    first = factors.count(0.0)  # steps of SGD
    assert first == (5 if issubclass(kind, RAdam) and betas[1] > 0.9 else 0)
    assert factors[first:] == pytest.approx(lengths[first:], rel=1e-6)


def network(*norms: nn.Module) -> nn.Sequential:
    """A network for vectors of 8 numbers, with a normalisation layer of that size or none."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), *norms, nn.Tanh(), nn.Linear(8, 3))


def frozen_below(layer: int, module: nn.Sequential) -> nn.Sequential:
    module[:layer].requires_grad_(False)
    return module


@pytest.mark.parametrize(
    "module",
    [
        network(),
        network(nn.BatchNorm1d(8)),
        network(nn.LayerNorm(8)),
        network(nn.GroupNorm(1, 8)),
        network(nn.RMSNorm(8)),
        network(nn.BatchNorm1d(8, affine=False)),
        frozen_below(2, network(nn.BatchNorm1d(8))),
        nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 3)),
    ],
)
def test_whether_a_norm_layer_follows_weights_that_are_trained(module: nn.Sequential) -> None:
    """By the loss of a network whose trained weights, but for the last ones, are three times as large."""
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    before = module(x)
    hidden = [layer for layer in module[:-1] if isinstance(layer, nn.Linear) and layer.weight.requires_grad]
    with torch.no_grad():
        for layer in hidden:
            layer.weight *= 3
            layer.bias *= 3
    is_unchanged = bool(hidden) and torch.allclose(before, module(x), atol=1e-4)
    assert has_normalised_weights(module) == is_unchanged
