"""The rise of the loss at a radius, against quadratics, SAM's own step and loops by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lightning_hp.functional as hpf
from lightning_hp.functional.sharpness import weights as weights_file
from tests.functional.sharpness.small_nets import at, loss_of, net, state_of


@torch.no_grad()
def value(loss: hpf.BatchLoss) -> float:
    return float(loss())


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("sizes", [(16,), (9, 4, 3)])
def test_one_step_is_the_perturbation_of_sam(adaptive: bool, sizes: tuple[int, ...]) -> None:
    model, twin = net(), net()
    model.train()
    loss, other = loss_of(model, *sizes), loss_of(twin, *sizes)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = state_of(model)
    found = hpf.ascent_rise(loss, model.parameters(), 0.3, adaptive=adaptive)
    assert state_of(model) == before
    other().backward()
    start = value(other)
    with hpf.Perturbation(twin.parameters(), 0.3, adaptive=adaptive).ascended():
        expected = value(other) - start
    assert found == pytest.approx(expected, rel=1e-4)


def test_several_steps_find_the_worst_point_of_a_quadratic() -> None:
    """The worst point in a ball around the minimum is along the top eigenvector; the first gradient is not."""
    curvature = torch.tensor([1.0, 10.0, 3.0])
    w = torch.tensor([1e-2, 1e-3, 1e-2], requires_grad=True)

    def loss() -> Tensor:
        return (curvature * w**2).sum() / 2

    exact = 10 * 0.5**2 / 2
    one, twenty = (hpf.ascent_rise(loss, [w], 0.5, steps=steps) for steps in (1, 20))
    assert one < 0.6 * exact
    assert twenty == pytest.approx(exact, rel=0.02)


def test_steps_stay_in_the_ball(monkeypatch: pytest.MonkeyPatch) -> None:
    w, eta = torch.tensor([[1.0, -2.0], [0.0, 0.5]], requires_grad=True), 0.1
    b = torch.tensor([1.0, 1.0], requires_grad=True)
    home, lengths = w.detach().clone(), []

    def loss() -> Tensor:
        moved = torch.cat([((w.detach() - home) / (home.abs() + eta)).flatten(), b.detach() - 1])
        lengths.append(float(moved.norm()))
        return (w**2).sum() + (b * w.sum(1)).sum()

    hpf.ascent_rise(loss, [w, b], 0.7, steps=8, adaptive=True, eta=eta)
    assert lengths[0] == 0
    assert max(lengths) <= 0.7 + 1e-5
    assert lengths[-1] == pytest.approx(0.7, abs=1e-5)


def test_a_zero_gradient_and_weights_without_scale() -> None:
    w = torch.zeros(2, 2, requires_grad=True)
    assert hpf.ascent_rise(lambda: (w**2).sum(), [w], 1.0) == 0.0
    assert hpf.ascent_rise(lambda: w.sum(), [w], 1.0, adaptive=True, eta=0.0) == 0.0
    assert math.isnan(hpf.ascent_rise(lambda: w.sqrt().sum() * torch.nan, [w], 1.0))
    assert not w.any()


def test_random_rises_are_those_of_directions_on_the_sphere() -> None:
    curvature = torch.linspace(0, 4, 400)
    w = torch.zeros(400)
    found = hpf.random_rise(lambda: (curvature * w**2).sum() / 2, [w], 0.5, num_samples=200)
    assert found.rises.shape == (200,)
    assert found.mean == pytest.approx(0.5**2 * float(curvature.mean()) / 2, rel=0.02)
    assert found.worst == found.rises.max()
    assert np.ptp(found.rises) > 0
    on_the_sphere = hpf.random_rise(lambda: w.norm(), [w], 0.5, num_samples=5).rises
    np.testing.assert_allclose(on_the_sphere, 0.5, rtol=1e-5)


def test_random_directions_are_shared_by_all_radii_and_scaled_by_the_weights() -> None:
    model = net()
    loss = loss_of(model)
    before = state_of(model)
    small, large = (
        hpf.random_rise(loss, model.parameters(), radius, num_samples=3, seed=4, adaptive=True, eta=0.05)
        for radius in (0.5, 1.0)
    )
    assert state_of(model) == before
    assert (large.rises != small.rises).all()
    generator = torch.Generator().manual_seed(4)
    for number in range(3):
        drawn = [torch.randn(p.shape, generator=generator) for p in model.parameters()]
        norm = math.sqrt(sum(float(d.square().sum()) for d in drawn))
        scaled = [
            d / norm * (p.detach().abs() + 0.05 if p.ndim > 1 else 1)
            for d, p in zip(drawn, model.parameters(), strict=True)
        ]
        for radius, found in ((0.5, small), (1.0, large)):
            expected = value(loss_of(at(model, [scaled], (radius,)))) - value(loss)
            assert found.rises[number] == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_and_random_state_are_restored_after_an_error(steps: int, error: type[BaseException]) -> None:
    model = net()
    loss, calls = loss_of(model, batch_norm="batch"), []

    def fails() -> Tensor:
        torch.rand(2)
        calls.append(1)
        if len(calls) > steps:
            raise error
        return loss()

    before = state_of(model)
    with pytest.raises(error):
        hpf.ascent_rise(fails, model.parameters(), 0.1, steps=steps)
    assert state_of(model) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    layer = nn.Linear(20, 20).to(dtype)
    home = [p.detach().clone() for p in layer.parameters()]

    def loss() -> Tensor:
        return sum(p.float().square().sum() for p in layer.parameters()) / 2

    norm = math.sqrt(2 * float(loss().detach()))
    exact = 2.0 * norm + 2.0**2 / 2  # of |w|^2 / 2 along w
    for adaptive in (False, True):
        rise = hpf.ascent_rise(loss, layer.parameters(), 2.0, adaptive=adaptive)
        assert rise == pytest.approx(exact, rel=0.03) if not adaptive else rise > 0
        random = hpf.random_rise(loss, layer.parameters(), 2.0, num_samples=4, adaptive=adaptive)
        assert random.worst < exact
    assert all(torch.equal(p, h) for p, h in zip(layer.parameters(), home, strict=True))


def test_an_outer_autocast_context_does_not_keep_the_weights_of_another_step() -> None:
    model = net(norm=False)
    loss = loss_of(model)

    def inside() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss()

    expected = hpf.ascent_rise(inside, model.parameters(), 1.0, steps=3)
    with torch.autocast("cpu", torch.bfloat16):
        loss()
        assert hpf.ascent_rise(loss, model.parameters(), 1.0, steps=3) == expected


def test_losses_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    original = weights_file.Losses.read
    monkeypatch.setattr(weights_file.Losses, "read", lambda losses: reads.append(losses._number) or original(losses))
    w = torch.zeros(3)
    hpf.random_rise(lambda: w.sum(), [w], 0.1, num_samples=6)
    assert reads == [7]
