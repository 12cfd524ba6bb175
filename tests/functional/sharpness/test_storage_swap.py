"""A large parameter lies elsewhere while it is away, unless somebody else looks at its memory; then it is copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lightning_hp.functional as hpf

SIDE = 600  # 1.4 MB


def weight() -> nn.Parameter:
    made = nn.Parameter(torch.randn(SIDE, SIDE))
    made.grad = torch.randn(SIDE, SIDE)
    return made


def there_and_back(parameter: Any) -> tuple[int, int, int, Tensor, Tensor]:
    """Its address at home, away, and at home again; where it was away; where it should have been."""
    home, before, gradient = parameter.detach().clone(), parameter.data_ptr(), parameter.grad.clone()
    sam = hpf.Perturbation([parameter], rho=3.0)
    with sam.ascended():
        away, moved = parameter.data_ptr(), parameter.detach().clone()
        assert float(sam.share_unmoved()) < 0.01
    assert torch.equal(parameter, home)
    return before, away, parameter.data_ptr(), moved, home.add(gradient, alpha=float(3.0 / gradient.norm()))


def test_a_large_one_lies_elsewhere_and_comes_back_to_its_own_memory() -> None:
    before, away, after, moved, expected = there_and_back(weight())
    assert away != before == after
    assert torch.equal(moved, expected)


ONLOOKERS: dict[str, Callable[[nn.Parameter], Any]] = {
    "view": lambda p: p.detach()[3],
    "numpy": lambda p: p.detach().numpy(),
    "alias": lambda p: p.data,
    "other_parameter": lambda p: nn.Parameter(p.detach().t()),
}


@pytest.mark.parametrize("kind", ONLOOKERS)
def test_whoever_looks_at_its_memory_sees_it_move(kind: str) -> None:
    parameter = weight()
    onlooker = ONLOOKERS[kind](parameter)
    seen = torch.as_tensor(onlooker).detach().clone()
    sam = hpf.Perturbation([parameter], rho=3.0)
    with sam.ascended():
        assert not torch.equal(torch.as_tensor(onlooker), seen)
    assert torch.equal(torch.as_tensor(onlooker), seen)


def test_part_of_a_larger_memory_and_shared_memory_are_copied() -> None:
    flat = torch.randn(2 * SIDE * SIDE)
    part = nn.Parameter(flat[: SIDE * SIDE].view(SIDE, SIDE))
    del flat
    part.grad = torch.randn(SIDE, SIDE)
    shared = weight()
    shared.data.share_memory_()
    for parameter in (part, shared):
        before, away, _, moved, expected = there_and_back(parameter)
        assert away == before
        assert torch.equal(moved, expected)


def of_numpy() -> tuple[nn.Parameter, Callable[[], Tensor]]:
    array = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32)
    return nn.Parameter(torch.from_numpy(array)), lambda: torch.as_tensor(array.copy())


def of_a_buffer() -> tuple[nn.Parameter, Callable[[], Tensor]]:
    buffer = bytearray(4 * SIDE * SIDE)
    made = nn.Parameter(torch.frombuffer(buffer, dtype=torch.float32).view(SIDE, SIDE))
    return made, lambda: torch.frombuffer(bytearray(buffer), dtype=torch.float32).clone().view(SIDE, SIDE)


def with_its_storage_kept() -> tuple[nn.Parameter, Callable[[], Tensor]]:
    made = nn.Parameter(torch.randn(SIDE, SIDE))
    storage = made.untyped_storage()
    return made, lambda: torch.empty(0).set_(storage, 0, (SIDE, SIDE)).clone()


@pytest.mark.parametrize("make", [of_numpy, of_a_buffer, with_its_storage_kept])
def test_memory_that_is_not_the_parameters_alone_is_written(make: Any) -> None:
    parameter, look = make()
    parameter.grad = torch.randn(SIDE, SIDE)
    with hpf.Perturbation([parameter], rho=3.0).ascended():
        assert torch.equal(look(), parameter)
    assert torch.equal(look(), parameter)


@pytest.mark.parametrize("side", [4, SIDE])
def test_a_graph_or_a_cache_over_the_weights_notices(side: int) -> None:
    parameter = nn.Parameter(torch.randn(side, side))
    parameter.grad = torch.randn(side, side)
    old = (parameter * parameter).sum()
    versions = [parameter._version]
    with hpf.Perturbation([parameter], rho=1.0).ascended():
        versions.append(parameter._version)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            old.backward()
    versions.append(parameter._version)
    assert len(set(versions)) == 3


@pytest.mark.parametrize("side", [4, SIDE])
def test_a_view_that_is_taken_while_it_is_away_is_one_of_the_parameter(side: int) -> None:
    parameter = nn.Parameter(torch.randn(side, side))
    sam = hpf.Perturbation([parameter], rho=1.0)
    home = parameter.detach().clone()
    for _ in range(2):
        parameter.grad = torch.randn(side, side)
        with sam.ascended():
            view = parameter.detach()
        assert torch.equal(parameter, home)
        assert torch.equal(view, home)
        with torch.no_grad():
            parameter.add_(1)
        assert torch.equal(view, home + 1)
        home = parameter.detach().clone()


def test_a_transposed_one_keeps_its_order_in_memory() -> None:
    parameter = nn.Parameter(torch.randn(SIDE, SIDE).t())
    parameter.grad = torch.randn(SIDE, SIDE).t()
    sam = hpf.Perturbation([parameter], rho=1.0)
    with sam.ascended():
        assert parameter.stride() == (1, SIDE)
    assert parameter.stride() == (1, SIDE)


def test_gradient_types_of_their_own_are_copied() -> None:
    rows = nn.Embedding(SIDE, SIDE, sparse=True)
    rows(torch.tensor([1, 1, 3])).sum().backward()
    home = rows.weight.detach().clone()
    with hpf.Perturbation(rows.parameters(), rho=1.0).ascended():
        moved = rows.weight.detach() - home
    assert (moved != 0).any(1).nonzero().flatten().tolist() == [1, 3]
    assert torch.equal(rows.weight, home)
