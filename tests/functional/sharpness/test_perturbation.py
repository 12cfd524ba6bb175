"""The perturbation of SAM in a loop without Lightning, against arithmetic by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lightning_hp.functional as hpf
from tests.callbacks.sam_by_hand import make_net, sam_by_hand
from tests.devices import no_waiting, on_each_device, torch_device


def parameters(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    made = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape).to(dtype)
    return made


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in tensors])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_moves_by_rho_along_the_whole_gradient(dtype: torch.dtype) -> None:
    many = parameters((3, 4), (4,), (2, 3, 3), dtype=dtype)
    home, gradient = flat(many), flat(p.grad for p in many)
    sam = hpf.Perturbation(many, rho=0.5)
    with sam.ascended() as norm:
        moved = flat(many) - home
        assert all(p.grad is None for p in many)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-6
    assert float(norm) == pytest.approx(float(gradient.norm()), rel=tolerance)
    assert torch.allclose(moved, 0.5 * gradient / gradient.norm(), atol=tolerance)
    assert torch.equal(flat(many), home)


def test_adaptive_is_the_step_of_the_paper_and_invariant_to_rescaling() -> None:
    many = parameters((3, 4), (4,))
    home, gradients = [p.detach().clone() for p in many], [p.grad.clone() for p in many if p.grad is not None]
    t = [home[0].abs() + 0.1, torch.ones(4)]
    norm = flat(a * g for a, g in zip(t, gradients, strict=True)).norm()
    expected = [2.0 * a.double() ** 2 * g.double() / norm for a, g in zip(t, gradients, strict=True)]
    with hpf.Perturbation(many, rho=2.0, adaptive=True, eta=0.1).ascended():
        for parameter, start, e in zip(many, home, expected, strict=True):
            assert torch.allclose(parameter.double(), start.double() + e, atol=1e-6)
    assert all(torch.equal(p, h) for p, h in zip(many, home, strict=True))
    # Layers scaled by a and 1/a are the same function with the same sharpness: e scales with the weights.
    moves = []
    for a in (1.0, 10.0):
        (scaled,) = parameters((2, 2))
        with torch.no_grad():
            scaled.copy_(home[0][:2, :2] * a)
        scaled.grad = gradients[0][:2, :2] / a
        with hpf.Perturbation([scaled], rho=0.5, adaptive=True, eta=0.0).ascended():
            moves.append(scaled.detach() / a - home[0][:2, :2])
    assert torch.allclose(moves[0], moves[1], atol=1e-5)


@pytest.mark.parametrize("rho", [0.05, 0.5, 2.0])
def test_restoring_is_exact_where_a_subtraction_is_not(rho: float) -> None:
    many = parameters((400, 300), (300,))
    home = [p.detach().clone() for p in many]
    e = [rho * p.grad / flat(q.grad for q in many).norm().float() for p in many if p.grad is not None]
    with hpf.Perturbation(many, rho=rho).ascended():
        pass
    assert all(torch.equal(p, h) for p, h in zip(many, home, strict=True))
    assert any(not torch.equal(h + d - d, h) for h, d in zip(home, e, strict=True)), "the test checks nothing"


def test_w_is_restored_after_an_error_and_a_second_ascend_is_refused() -> None:
    many = parameters((3, 3))
    home = many[0].detach().clone()
    sam = hpf.Perturbation(many)

    def fail() -> None:
        with sam.ascended():
            assert not torch.equal(many[0], home)
            raise RuntimeError("the body failed")

    with pytest.raises(RuntimeError, match="the body failed"):
        fail()
    assert torch.equal(many[0], home)
    many[0].grad = torch.ones(3, 3)
    sam.ascend()
    many[0].grad = torch.ones(3, 3)
    with pytest.raises(RuntimeError, match="call `restore` first"):
        sam.ascend()
    with pytest.raises(RuntimeError, match="call `restore` first"):
        sam.release()
    sam.restore()
    sam.restore()
    sam.release()
    assert torch.equal(many[0], home)


def test_the_memory_of_the_copy_is_kept_until_it_is_released() -> None:
    many = parameters((8, 8))
    sam = hpf.Perturbation(many)
    addresses = set()
    for _ in range(3):
        many[0].grad = torch.ones(8, 8)
        with sam.ascended():
            addresses.add(next(iter(sam._copies.values())).data_ptr())
    assert len(addresses) == 1
    sam.release()
    assert not sam._copies


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_norm_that_is_zero_or_not_finite_moves_nothing(bad: float) -> None:
    """In common implementations of SAM the weights are NaN after this."""
    for entry in (0.0, bad):
        many = parameters((3, 3), (3,))
        for p in many:
            p.grad = torch.zeros_like(p)
        many[0].grad[0, 0] = entry  # type: ignore[index]
        home = flat(many)
        with hpf.Perturbation(many).ascended() as norm:
            assert torch.equal(flat(many), home)
        assert not 0 < float(norm) < float("inf")


def test_duplicate_rows_of_sparse_gradients_are_summed_before_the_norm() -> None:
    for adaptive in (False, True):
        torch.manual_seed(0)
        table, dense = nn.Embedding(6, 3, sparse=True), nn.Embedding(6, 3)
        dense.load_state_dict(table.state_dict())
        moved = []
        for embedding in (table, dense):
            embedding(torch.tensor([1, 1, 4, 1])).square().sum().backward()
            sam = hpf.Perturbation(embedding.parameters(), rho=0.3, adaptive=adaptive)
            with sam.ascended() as norm:
                moved.append((float(norm), embedding.weight.detach().clone()))
        assert moved[0][0] == pytest.approx(moved[1][0], rel=1e-6)
        assert torch.allclose(moved[0][1], moved[1][1], atol=1e-6)
        assert torch.equal(table.weight, dense.weight)


def test_only_some_move_and_all_gradients_become_none() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    home = copy.deepcopy(net.state_dict())
    net(torch.randn(16, 4)).square().mean().backward()
    with hpf.Perturbation(net.parameters(), rho=1.0, only=hpf.norm_parameters(net)).ascended():
        moved = [name for name, p in net.named_parameters() if not torch.equal(p, home[name])]
        assert moved == ["1.weight", "1.bias"]
        assert all(p.grad is None for p in net.parameters())


def test_frozen_parameters_and_those_without_a_gradient_stay() -> None:
    a, b = parameters((2, 2), (2, 2))
    b.grad = None
    c = nn.Parameter(torch.ones(2), requires_grad=False)
    home = [p.detach().clone() for p in (b, c)]
    with hpf.Perturbation([a, b, c], rho=1.0).ascended():
        assert torch.equal(b, home[0])
        assert torch.equal(c, home[1])


def test_the_share_of_weights_that_rounding_does_not_move() -> None:
    """Most weights in bfloat16 do not move by a small step; in float32 they do."""
    for dtype, low, high in ((torch.bfloat16, 0.7, 1.0), (torch.float32, 0.0, 0.1)):
        torch.manual_seed(0)
        net = nn.Linear(512, 512).to(dtype)
        net.weight.grad = torch.randn(512, 512).to(dtype)
        home = net.weight.detach().clone()
        sam = hpf.Perturbation([net.weight], rho=0.005)
        with sam.ascended():
            assert low <= float(sam.share_unmoved()) <= high
            assert float(sam.share_unmoved()) == pytest.approx(float((net.weight == home).float().mean()))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rho": -1.0}, "`rho` to be a finite number >= 0, but got -1.0"),
        ({"rho": 10**400}, "`rho` to be a finite number >= 0, but got 1000"),
        ({"rho": [0.1, 0.2]}, "`rho` to be a number, or one for each of the 1 parameters, but got"),
        ({"rho": [-0.1]}, r"`rho\[0\]` to be a finite number >= 0, but got -0.1"),
        ({"eta": float("inf")}, "`eta` to be a finite number >= 0, but got inf"),
        ({"only": []}, "Expected some of `parameters` in `only`, but got none"),
        ({"only": np.zeros(0)}, "Expected some of `parameters` in `only`, but got none"),
    ],
)
def test_arguments_of_a_wrong_value(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hpf.Perturbation(parameters((2,)), **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rho": "0.1"}, "`rho` to be a finite number >= 0, but got '0.1'"),
        ({"rho": True}, "`rho` to be a finite number >= 0, but got True"),
        ({"eta": None}, "`eta` to be a finite number >= 0, but got None"),
        ({"adaptive": 1}, "`adaptive` to be True or False, but got 1"),
        ({"only": 3}, "`only` to be an iterable of tensors, .* or None, but got 3"),
        ({"only": ["0.weight"]}, r"`only\[0\]` to be a tensor, but got '0.weight'"),
        ({"only": np.ones(2)}, r"`only\[0\]` to be a tensor, but got"),
    ],
)
def test_arguments_of_a_wrong_type(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        hpf.Perturbation(parameters((2,)), **kwargs)


@pytest.mark.parametrize(("rho", "error"), [("1", TypeError), (True, TypeError), (-1.0, ValueError)])
def test_the_radius_of_a_step_is_checked_before_anything_moves(rho: Any, error: type[Exception]) -> None:
    many = parameters((2,))
    home, gradient = many[0].detach().clone(), many[0].grad
    sam = hpf.Perturbation(many)
    with pytest.raises(error, match="Expected `rho`"):
        sam.ascend(rho)
    assert torch.equal(many[0], home)
    assert many[0].grad is gradient


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda net: net, r"`parameters` to be an iterable of tensors, .* but got .* \(Linear\)"),
        (lambda net: net.weight, r"`parameters` to be an iterable of tensors, .* but got .* \(Parameter\)"),
        (lambda net: net.named_parameters(), r"`parameters\[0\]` to be a tensor, but got .* \(tuple\)"),
        (lambda net: torch.optim.SGD(net.parameters(), lr=0.1).param_groups, r"to be a tensor, but got .* \(dict\)"),
        (lambda net: None, "`parameters` to be an iterable of tensors, .* but got None"),
        (lambda net: "weight", "`parameters` to be an iterable of tensors, .* but got 'weight'"),
    ],
)
def test_what_is_not_an_iterable_of_parameters(given: Any, message: str) -> None:
    """The rows of a single tensor have no gradient: nothing would move."""
    with pytest.raises(TypeError, match=message):
        hpf.Perturbation(given(nn.Linear(3, 1)))


def test_five_lines_in_a_loop_are_the_loop_by_hand() -> None:
    nets = [make_net(norm=False, dropout=0.0) for _ in range(2)]
    batches = [(torch.randn(16, 8), torch.randint(3, (16,))) for _ in range(5)]
    optimizer = torch.optim.AdamW(nets[0].parameters(), lr=0.01)
    sam = hpf.Perturbation(nets[0].parameters(), rho=0.3)
    for x, y in batches:
        nn.functional.cross_entropy(nets[0](x), y).backward()
        with sam.ascended():
            nn.functional.cross_entropy(nets[0](x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    sam_by_hand(
        nets[1], torch.optim.AdamW(nets[1].parameters(), lr=0.01), batches, [torch.get_rng_state()] * 5, rho=0.3
    )
    assert all(torch.equal(p, q) for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


@on_each_device
def test_on_an_accelerator_it_is_the_same_and_does_not_wait(device: str) -> None:
    many = parameters((64, 64), (64,))
    there = [nn.Parameter(p.detach().to(torch_device(device), copy=True)) for p in many]
    for p, q in zip(many, there, strict=True):
        q.grad = p.grad.to(q.device, copy=True)  # type: ignore[union-attr]
    with hpf.Perturbation(many, rho=0.5).ascended():
        expected = [p.detach().clone() for p in many]
    sam = hpf.Perturbation(there, rho=0.5)
    home = [p.detach().clone() for p in there]
    with no_waiting(device, reads=1):  # on the CPU the length of the perturbation is read
        sam.ascend()
        moved = [p.detach().clone() for p in there]
        sam.restore()
    assert all(torch.allclose(m.cpu(), e, atol=1e-6) for m, e in zip(moved, expected, strict=True))
    assert all(torch.equal(p, h) for p, h in zip(there, home, strict=True))


def test_one_autocast_around_both_passes() -> None:
    """Autocast caches the weights in 16 bits, and would use w in the second pass."""
    torch.manual_seed(0)
    net, x = nn.Linear(30, 30), torch.randn(8, 30)
    norms = []
    for is_one in (True, False):
        sam = hpf.Perturbation(net.parameters(), rho=5.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_one):
            for context in (nullcontext, sam.ascended):
                with context(), torch.autocast("cpu", torch.bfloat16):
                    net(x).float().square().mean().backward()
        norms.append(hpf.gradient_norm([p.grad for p in net.parameters() if p.grad is not None]))
        net.zero_grad()
    assert torch.equal(*norms)


def test_a_parameter_whose_data_was_replaced_is_restored_to_the_new_data() -> None:
    first, second = parameters((10,), (10,))
    sam = hpf.Perturbation([first, second], rho=0.5)
    with sam.ascended():
        pass
    second.data = torch.randn(20, dtype=torch.float64)
    first.grad, second.grad = torch.randn(10), torch.randn(20, dtype=torch.float64)
    home = second.detach().clone()
    with sam.ascended():
        assert not torch.equal(second, home)
    assert torch.equal(second, home)


SHARERS: dict[str, Callable[[nn.Parameter], Any]] = {
    "view": lambda p: p.detach()[3],
    "numpy": lambda p: p.detach().numpy(),
    "data": lambda p: p.data,
    "other_parameter": lambda p: nn.Parameter(p.detach().t()),
}


@pytest.mark.parametrize("kind", SHARERS)
@pytest.mark.parametrize("side", [4, 600])
def test_what_shares_the_memory_of_a_parameter_moves_with_it(kind: str, side: int) -> None:
    (parameter,) = parameters((side, side))
    sharer = SHARERS[kind](parameter)
    before, address = torch.as_tensor(sharer).detach().clone(), parameter.data_ptr()
    with hpf.Perturbation([parameter], rho=3.0).ascended():
        assert not torch.equal(torch.as_tensor(sharer), before)
        assert parameter.data_ptr() == address
    assert torch.equal(torch.as_tensor(sharer), before)


@pytest.mark.parametrize("side", [4, 600])
def test_a_graph_or_a_cache_that_depends_on_the_weights_is_invalid(side: int) -> None:
    (parameter,) = parameters((side, side))
    graph = (parameter * parameter).sum()
    versions = [parameter._version]
    with hpf.Perturbation([parameter], rho=1.0).ascended():
        versions.append(parameter._version)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            graph.backward()
    versions.append(parameter._version)
    assert len(set(versions)) == 3


def test_a_view_that_is_taken_at_w_plus_e_is_one_of_the_parameter() -> None:
    (parameter,) = parameters((4, 4))
    sam = hpf.Perturbation([parameter], rho=1.0)
    home = parameter.detach().clone()
    for _ in range(2):
        parameter.grad = torch.randn(4, 4)
        with sam.ascended():
            view = parameter.detach()
        assert torch.equal(parameter, home)
        assert torch.equal(view, home)
        with torch.no_grad():
            parameter.add_(1)
        assert torch.equal(view, home + 1)
        home = parameter.detach().clone()


def test_a_transposed_parameter_keeps_its_strides() -> None:
    parameter = nn.Parameter(torch.randn(5, 3).t())
    parameter.grad = torch.randn(3, 5)
    home = parameter.detach().clone()
    with hpf.Perturbation([parameter], rho=1.0).ascended():
        assert parameter.stride() == (1, 3)
        assert not torch.equal(parameter, home)
    assert parameter.stride() == (1, 3)
    assert torch.equal(parameter, home)


def test_of_a_sparse_gradient_only_its_rows_move() -> None:
    rows = nn.Embedding(6, 4, sparse=True)
    rows(torch.tensor([1, 1, 3])).sum().backward()
    home = rows.weight.detach().clone()
    with hpf.Perturbation(rows.parameters(), rho=1.0).ascended():
        moved = rows.weight.detach() - home
    assert (moved != 0).any(1).nonzero().flatten().tolist() == [1, 3]
    assert torch.equal(rows.weight, home)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_parameters_without_a_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected initialized `parameters`, but got uninitialized ones"):
        hpf.Perturbation(nn.LazyLinear(3).parameters())


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_radius_for_each_parameter(adaptive: bool, sparse: bool) -> None:
    """rho_i T^2 g / |T g|, with the norm over all parameters, those of radius 0 included."""
    torch.manual_seed(0)
    rows = nn.Embedding(6, 4, sparse=sparse)
    net = nn.ModuleList([rows, nn.Linear(4, 3), nn.Linear(3, 2)])
    net[2](net[1](rows(torch.tensor([1, 1, 3])))).square().sum().backward()
    many = list(net.parameters())
    radii = [0.3, 0.1, 0.1, 0.0, 0.2]
    gradients = [p.grad.to_dense() if p.grad.is_sparse else p.grad.clone() for p in many]
    home = [p.detach().clone() for p in many]
    t = [w.abs() + 0.01 if adaptive and w.ndim > 1 else torch.ones_like(w) for w in home]
    norm = torch.cat([(a * g).flatten() for a, g in zip(t, gradients, strict=True)]).norm()
    sam = hpf.Perturbation(many, radii, adaptive=adaptive)
    assert sam.rho == 0.3
    with sam.ascended(0.15):  # half of the largest, so half of each
        for parameter, w, a, g, radius in zip(many, home, t, gradients, radii, strict=True):
            torch.testing.assert_close(parameter.detach(), w + 0.5 * radius * a * a * g / norm)
    assert all(torch.equal(parameter, w) for parameter, w in zip(many, home, strict=True))
