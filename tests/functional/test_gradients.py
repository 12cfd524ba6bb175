"""The norm of a gradient, and whether it is finite, for every kind of gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import lightning_hp.functional as hpf
from lightning_hp.functional.gradients import is_finite

# The norm.


def test_the_norm_of_dense_sparse_and_mixed_types_is_that_of_one_vector() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(3, 4), torch.randn(5, dtype=torch.float64)
    c = torch.randn(7).to(torch.bfloat16)
    rows = torch.nn.Embedding(4, 2, sparse=True)
    (rows(torch.tensor([0, 0, 3])) * torch.tensor([1.0, 2.0])).sum().backward()
    sparse_rows = rows.weight.grad
    assert sparse_rows is not None
    pieces = [a, b, c, sparse_rows.to_dense()]
    expected = torch.cat([piece.double().flatten() for piece in pieces]).norm()
    assert float(hpf.gradient_norm([a, b, c, sparse_rows])) == pytest.approx(float(expected), rel=1e-6)


def test_squares_of_16_bits_are_summed_in_32() -> None:
    """In half precision the square of 300 overflows, and a long sum stops growing."""
    assert float(hpf.gradient_norm([torch.full((10_000,), 300.0, dtype=torch.float16)])) == pytest.approx(30_000.0)


def test_where_torchs_own_norm_has_16_bits() -> None:
    """As the docstring says; if torch changes this, the docstring has to."""
    pieces = [torch.full((10_000,), 300.0, dtype=torch.float16)] * 9
    assert float(hpf.gradient_norm(pieces)) == pytest.approx(90_000.0)
    assert torch.isinf(torch.nn.utils.get_total_norm(pieces))


def test_of_no_tensors_it_is_zero_and_of_nan_it_is_not_finite() -> None:
    assert float(hpf.gradient_norm([])) == 0.0
    assert not torch.isfinite(hpf.gradient_norm([torch.ones(2), torch.tensor([float("nan")])]))


def test_it_is_torchs_own_norm_for_dense_and_sparse_gradients() -> None:
    pieces = [torch.randn(10, 10), torch.randn(3)]
    assert torch.equal(hpf.gradient_norm(pieces), torch.nn.utils.get_total_norm(pieces))
    pieces.append(torch.sparse_coo_tensor([[0, 2, 0]], torch.ones(3), (4,), check_invariants=True))
    assert torch.allclose(hpf.gradient_norm(pieces), torch.nn.utils.get_total_norm(pieces))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_many_small_tensors_between_large_ones(dtype: torch.dtype) -> None:
    """Small tensors are concatenated; a transposed one is not contiguous."""
    generator = torch.Generator().manual_seed(0)
    pieces = [torch.randn(7, 9, generator=generator).to(dtype).t() for _ in range(300)]
    pieces[::50] = [torch.randn(40, 50, generator=generator).to(dtype) for _ in pieces[::50]]
    expected = torch.cat([piece.double().flatten() for piece in pieces]).norm()
    assert float(hpf.gradient_norm(pieces)) == pytest.approx(float(expected), rel=1e-6)
    assert torch.isnan(hpf.gradient_norm([*pieces, torch.full((3,), float("nan"), dtype=dtype)]))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (None, "`gradients` to be an iterable of tensors, but got None"),
        (3.0, "`gradients` to be an iterable of tensors, but got 3.0"),
        ("12", "`gradients` to be an iterable of tensors, but got '12'"),
        (torch.ones(2), "`gradients` to be an iterable of tensors, but got tensor"),
        ([1.0], r"`gradients\[0\]` to be a tensor, but got 1.0"),
        ([torch.ones(2), None], r"`gradients\[1\]` to be a tensor, but got None"),
        ([torch.ones(2, dtype=torch.int64)], r"`gradients\[0\]` to be a dense or sparse COO tensor of floating-point"),
    ],
)
def test_what_is_not_a_gradient(bad: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"Expected {message}"):
        hpf.gradient_norm(bad)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_other_layouts_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Expected `gradients\[0\]` to be a dense or sparse COO tensor"):
        hpf.gradient_norm([torch.eye(2).to_sparse_csr()])


# Whether all entries are finite.


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
def test_each_kind_is_checked_by_itself_and_among_all_others_and_keeps_its_values(kind: str, value: float) -> None:
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


def test_no_gradients_are_finite() -> None:
    assert bool(is_finite([]))
