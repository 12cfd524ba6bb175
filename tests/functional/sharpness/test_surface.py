"""Losses along lines, paths and planes, against copies of the model at these weights; and that no trace is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lightning_hp.functional as hpf
from lightning_hp.functional.sharpness import weights as weights_file
from tests.functional.sharpness.small_nets import at, flat, loss_of, net, state_of


def value(loss: Callable[[], Tensor]) -> float:
    with torch.no_grad():
        return float(loss())


X, Y = np.array([-1.0, -0.25, 0.0, 0.5]), np.array([-0.5, 0.0, 0.75])


@pytest.mark.parametrize("batch_norm", ["running", "batch"])
def test_a_surface_has_the_losses_of_copies_at_these_weights(batch_norm: str) -> None:
    model = net()
    model.train()
    plane = hpf.random_directions(model.parameters())
    before = state_of(model)
    surface = hpf.loss_surface(loss_of(model, 16, 5, batch_norm=batch_norm), model.parameters(), plane, X, Y)
    assert state_of(model) == before
    assert surface.shape == (3, 4)
    for j, y in enumerate(Y):
        for i, x in enumerate(X):
            copy = at(model, plane, (x, y))
            assert surface[j, i] == pytest.approx(value(loss_of(copy, 16, 5, batch_norm=batch_norm)), rel=1e-5)
    assert surface[1, 2] == value(loss_of(model, 16, 5, batch_norm=batch_norm))


def test_a_line_is_a_row_of_the_surface_and_a_path_ends_exactly() -> None:
    model, other = net(), net()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    loss, plane = loss_of(model), hpf.random_directions(model.parameters())
    line = hpf.loss_line(loss, model.parameters(), plane[0], X)
    assert np.array_equal(line, hpf.loss_surface(loss, model.parameters(), plane, X, [0.0])[0])

    other.load_state_dict({**other.state_dict(), **dict(model.named_buffers())})
    t = [0.0, 0.3, 1.0]
    path = hpf.loss_path(loss, model.parameters(), other.parameters(), t)
    assert path[0] == value(loss)
    assert path[2] == value(loss_of(other))
    way = [[b.detach() - a.detach() for a, b in zip(model.parameters(), other.parameters(), strict=True)]]
    assert path[1] == pytest.approx(value(loss_of(at(model, way, (0.3,)))), rel=1e-5)


def test_no_rounding_is_carried_from_point_to_point() -> None:
    """Points are written from the copy: a thousand of them later the loss at the origin is the same."""
    model = net(norm=False)
    loss, (direction,) = loss_of(model), hpf.random_directions(model.parameters(), 1)
    line = hpf.loss_line(loss, model.parameters(), direction, [*np.linspace(-9, 9, 300), 0.0, 1.0])
    assert line[-2] == value(loss)
    assert line[-1] == hpf.loss_line(loss, model.parameters(), direction, [1.0])[0]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("when", [1, 4])
def test_everything_is_restored_after_an_exception(error: type[BaseException], when: int) -> None:
    model = net()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    loss, plane = loss_of(model, batch_norm="batch"), hpf.random_directions(model.parameters())
    calls = []

    def fails() -> Tensor:
        torch.rand(3)
        calls.append(flat(model.parameters()))
        loss()
        if len(calls) == when:
            raise error
        return loss()

    before = state_of(model)
    with pytest.raises(error):
        hpf.loss_surface(fails, model.parameters(), plane, X, Y)
    assert state_of(model) == before
    assert not torch.equal(calls[-1], flat(model.parameters()))


def test_a_second_ctrl_c_while_the_weights_are_restored_restores_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    loss, plane = loss_of(model), hpf.random_directions(model.parameters())
    original, ended = weights_file.copy_into, []

    def interrupted(*args: Any) -> None:
        if not torch.is_inference_mode_enabled() and not ended:  # the copy after the last point
            ended.append(1)
            raise KeyboardInterrupt
        original(*args)

    monkeypatch.setattr(weights_file, "copy_into", interrupted)
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt):
        hpf.loss_surface(loss, model.parameters(), plane, X[:2], Y)
    assert ended
    assert state_of(model) == before


def test_a_graph_from_before_is_still_valid_and_random_numbers_are_the_same_at_each_point() -> None:
    model = net(norm=False)
    loss = loss_of(model)
    expected = torch.autograd.grad(loss(), list(model.parameters()))
    early = loss()
    (direction,) = hpf.random_directions(model.parameters(), 1)
    hpf.loss_line(loss, model.parameters(), direction, X)
    found = torch.autograd.grad(early, list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))

    drawn = hpf.loss_line(lambda: torch.rand(()), model.parameters(), direction, X)
    assert len(set(drawn)) == 1
    assert drawn[0] == float(torch.rand(()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(dtype: torch.dtype) -> None:
    w = torch.randn(4, 4).to(dtype)
    home = w.clone()
    plane = [[torch.randn(4, 4)], [torch.randn(4, 4).to(dtype)]]
    surface = hpf.loss_surface(lambda: w.double().square().sum(), [w], plane, X, Y)
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-6
    for j, y in enumerate(Y):
        for i, x in enumerate(X):
            exact = home.double() + x * plane[0][0].double() + y * plane[1][0].double()
            assert surface[j, i] == pytest.approx(float(exact.square().sum()), rel=tolerance)
    assert torch.equal(w, home)


def test_losses_that_are_not_finite_stay_and_a_reused_tensor_is_copied() -> None:
    w, total = torch.zeros(1), torch.zeros(())

    def loss() -> Tensor:
        return total.copy_(torch.log(w).sum())

    line = hpf.loss_line(loss, [w], [torch.ones(1)], [-1.0, 0.0, 1.0, math.e])
    assert math.isnan(line[0])
    assert line[1:].tolist() == [-math.inf, 0.0, pytest.approx(1.0)]


def test_ranks_that_share_the_points_have_the_surface_together() -> None:
    model = net()
    loss, plane = loss_of(model), hpf.random_directions(model.parameters())
    whole = hpf.loss_surface(loss, model.parameters(), plane, X, Y)
    parts = [
        hpf.loss_surface(loss, model.parameters(), plane, X, Y, points=range(rank, whole.size, 5)) for rank in range(5)
    ]
    assert all(np.isnan(part).sum() == whole.size - len(range(rank, whole.size, 5)) for rank, part in enumerate(parts))
    assert np.array_equal(np.nanmax(parts, axis=0), whole)
    assert np.isnan(hpf.loss_surface(loss, model.parameters(), plane, X, Y, points=[])).all()


BOWL = [torch.zeros(2)]
AXES = [[torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 1.0])]]
GRID = np.linspace(-1, 1, 21)


def counted(function: Callable[[Tensor], Tensor]) -> tuple[Callable[[], Tensor], list[int]]:
    calls: list[int] = []

    def loss() -> Tensor:
        calls.append(1)
        return function(BOWL[0])

    return loss, calls


def test_a_coarse_surface_needs_a_quarter_of_the_points_and_is_exact_for_a_gaussian() -> None:
    loss, calls = counted(lambda w: torch.exp(2 * w[0] ** 2 + w[0] * w[1] + w[1]))
    exact = hpf.loss_surface(loss, BOWL, AXES, GRID, GRID)
    calls.clear()
    coarse = hpf.loss_surface(loss, BOWL, AXES, GRID, GRID, coarse=True)
    assert len(calls) == 121 == len(hpf.coarse_points(21, 21))
    assert np.array_equal(coarse[::2, ::2], exact[::2, ::2])
    np.testing.assert_allclose(coarse, exact, rtol=1e-5)
    # A spline of the loss itself would be far off between the points.
    from scipy.interpolate import RectBivariateSpline

    steep, _ = counted(lambda w: torch.exp(8 * w.square().sum()))
    exact, coarse = (hpf.loss_surface(steep, BOWL, AXES, GRID, GRID, coarse=c) for c in (False, True))
    plain = RectBivariateSpline(GRID[::2], GRID[::2], exact[::2, ::2])(GRID, GRID)
    assert np.abs(coarse / exact - 1).max() < 1e-4 < np.abs(plain / exact - 1).max()


def test_a_coarse_surface_with_losses_without_a_logarithm_is_evaluated_whole() -> None:
    loss, calls = counted(lambda w: w[0] - 0.5)
    coarse = hpf.loss_surface(loss, BOWL, AXES, GRID, GRID, coarse=True)
    assert len(calls) == 441
    np.testing.assert_allclose(coarse[3], GRID - 0.5, atol=1e-6)


def test_a_budget_leaves_a_complete_coarser_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, calls = counted(lambda w: torch.exp(w[0] + 2 * w[1]))
    # A clock that counts the evaluations, so that no machine decides.
    monkeypatch.setattr(weights_file.time, "monotonic", lambda: float(len(calls)))
    surface = hpf.loss_surface(loss, BOWL, AXES, GRID, GRID, budget=40)
    assert (~np.isnan(surface)).sum() == len(calls) == 40
    assert not np.isnan(surface[::4, ::4]).any()
    assert np.isnan(surface[::2, ::2]).any()
    exact = np.exp(GRID[None] + 2 * GRID[:, None])
    np.testing.assert_allclose(hpf.fill_surface(GRID, GRID, surface), exact, rtol=1e-5)

    calls.clear()
    ended = hpf.loss_surface(loss, BOWL, AXES, GRID, GRID, coarse=True, budget=30)
    assert len(calls) == 30
    assert np.isnan(ended).sum() == 441 - 30
    calls.clear()
    np.testing.assert_allclose(
        hpf.loss_surface(loss, BOWL, AXES, GRID, GRID, coarse=True, budget=500), exact, rtol=1e-5
    )
    assert len(calls) == 121


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directions": AXES[:1]}, "two directions, but got 1"),
        ({"directions": [AXES[0], [torch.ones(3)]]}, r"directions\[1\]\[0\]` to have the shape \(2,\)"),
        ({"directions": [AXES[0], []]}, "to hold 1 tensors, one a parameter, but got 0"),
        ({"x": [[0.0]]}, r"`x` to be finite numbers of shape \(n,\)"),
        ({"x": [math.nan]}, "`x` to be finite numbers"),
        ({"points": [441]}, r"points\[0\]` to be an int from 0 to 440"),
        ({"points": [0], "coarse": True}, "either `points` or `coarse`"),
        ({"x": GRID[:-1], "coarse": True}, "`num_x` to be odd"),
        ({"x": GRID[::-1], "coarse": True}, "increasing `x`"),
        ({"loss": lambda: torch.ones(2)}, r"a tensor of one real number, but got one of shape \(2,\)"),
        ({"loss": lambda: "no"}, "return a tensor of one number, but got str"),
        ({"parameters": []}, "hold tensors, but got none"),
    ],
)
def test_wrong_arguments_get_a_sentence_and_leave_the_weights(change: dict[str, Any], message: str) -> None:
    arguments = {"loss": lambda: BOWL[0].sum(), "parameters": BOWL, "directions": AXES, "x": GRID, "y": GRID, **change}
    with pytest.raises((TypeError, ValueError), match=f"(?s)Expected.*({message})"):
        hpf.loss_surface(**arguments)
    assert not BOWL[0].any()


def test_an_outer_autocast_context_does_not_keep_the_weights_of_another_point() -> None:
    model = nn.Linear(8, 3)
    loss = hpf.BatchLoss(model, [(torch.randn(4, 8), torch.zeros(4, dtype=torch.long))], nn.functional.cross_entropy)
    (direction,) = hpf.random_directions(model.parameters(), 1)
    with torch.autocast("cpu", torch.bfloat16):
        loss()
        inside = hpf.loss_line(loss, model.parameters(), direction, [0.0, 3.0])
        after = value(loss)
    assert inside[0] == after
    assert inside[0] != inside[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert inside[1] == float(hpf.loss_line(loss, model.parameters(), direction, [3.0])[0])


@pytest.mark.gpu
def test_a_surface_on_an_accelerator_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.accelerator.current_accelerator()
    here = net()
    there = net().to(device)
    plane = hpf.random_directions(here.parameters())
    data = [(x.to(device), y.to(device)) for x, y in loss_of(here).batches]
    loss = hpf.BatchLoss(there, data, nn.functional.cross_entropy)
    before = [p.detach().clone() for p in there.parameters()]
    reads = []
    original = weights_file.Losses.read
    monkeypatch.setattr(weights_file.Losses, "read", lambda losses: reads.append(losses._number) or original(losses))
    surface = hpf.loss_surface(loss, there.parameters(), plane, X, Y)
    assert reads == [12]
    assert all(torch.equal(a, b) for a, b in zip(before, there.parameters(), strict=True))
    np.testing.assert_allclose(surface, hpf.loss_surface(loss_of(here), here.parameters(), plane, X, Y), rtol=1e-4)
