"""Whether gradients are finite is told entry by entry, for every kind of gradient, and none is changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_hp.functional.gradients import is_finite


def sparse(value: float) -> Tensor:
    return torch.sparse_coo_tensor([[0, 2, 0]], torch.tensor([1.0, value, 2.0]), (4,), check_invariants=True)


KINDS = {
    "float32": lambda value: torch.tensor([1.0, value]),
    "float64": lambda value: torch.tensor([[value], [3.0]], dtype=torch.float64),
    "float16": lambda value: torch.tensor([value], dtype=torch.float16),
    "bfloat16": lambda value: torch.tensor([value, 2.0], dtype=torch.bfloat16),
    "complex64": lambda value: torch.tensor([complex(1.0, value)]),
    "sparse": sparse,
    "transposed": lambda value: torch.tensor([[1.0, 2.0], [value, 3.0]]).t(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.5, -0.0, float("inf"), float("-inf"), float("nan")])
def test_each_kind_alone_and_among_all_others(kind: str, value: float) -> None:
    gradient = KINDS[kind](value)
    dense = gradient.to_dense()
    expected = bool(torch.isfinite(torch.view_as_real(dense) if dense.is_complex() else dense).all())
    others = [make(1.0) for name, make in KINDS.items() if name != kind]
    before = dense.clone()
    assert bool(is_finite([gradient])) is expected
    assert bool(is_finite([*others, gradient])) is expected
    assert torch.equal(gradient.to_dense().nan_to_num(7.0), before.nan_to_num(7.0))
    assert torch.equal(torch.signbit(gradient.to_dense().real), torch.signbit(before.real))


def test_large_gradients_are_finite_although_their_squares_are_not() -> None:
    assert bool(is_finite([torch.full((3,), 1e30)]))
    assert not torch.isfinite(torch.full((3,), 1e30).norm())


def test_none_at_all_are_finite() -> None:
    assert bool(is_finite([]))
