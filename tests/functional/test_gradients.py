"""The norm of a gradient in pieces is that of the pieces laid end to end."""

from __future__ import annotations

import pytest
import torch

import lightning_hp.functional as hpf


def test_dense_sparse_and_mixed_types() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(3, 4), torch.randn(5, dtype=torch.float64)
    c = torch.randn(7).to(torch.bfloat16)
    rows = torch.nn.Embedding(4, 2, sparse=True)
    (rows(torch.tensor([0, 0, 3])) * torch.tensor([1.0, 2.0])).sum().backward()
    sparse = rows.weight.grad
    assert sparse is not None
    pieces = [a, b, c, sparse.to_dense()]
    expected = torch.cat([piece.double().flatten() for piece in pieces]).norm()
    assert float(hpf.gradient_norm([a, b, c, sparse])) == pytest.approx(float(expected), rel=1e-6)


def test_sums_of_16_bits_are_taken_in_32() -> None:
    """In half precision the square of 300 overflows and a long sum stands still."""
    assert float(hpf.gradient_norm([torch.full((10_000,), 300.0, dtype=torch.float16)])) == pytest.approx(30_000.0)


def test_of_nothing_it_is_zero_and_of_infinity_it_is_not_finite() -> None:
    assert float(hpf.gradient_norm([])) == 0.0
    assert not torch.isfinite(hpf.gradient_norm([torch.ones(2), torch.tensor([float("nan")])]))


def test_it_is_torchs_own_norm_for_dense_gradients() -> None:
    pieces = [torch.randn(10, 10), torch.randn(3)]
    assert torch.equal(hpf.gradient_norm(pieces), torch.nn.utils.get_total_norm(pieces))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_many_small_tensors_between_large_ones(dtype: torch.dtype) -> None:
    """These take a way of their own; a transposed one is not in order in memory."""
    dice = torch.Generator().manual_seed(0)
    pieces = [torch.randn(7, 9, generator=dice).to(dtype).t() for _ in range(300)]
    pieces[::50] = [torch.randn(40, 50, generator=dice).to(dtype) for _ in pieces[::50]]
    expected = torch.cat([piece.double().flatten() for piece in pieces]).norm()
    assert float(hpf.gradient_norm(pieces)) == pytest.approx(float(expected), rel=1e-6)
    assert torch.isnan(hpf.gradient_norm([*pieces, torch.full((3,), float("nan"), dtype=dtype)]))
