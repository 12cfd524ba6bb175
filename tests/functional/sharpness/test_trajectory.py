"""Principal components through the Gram matrix, against the singular value decomposition of the whole matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import lightning_hp.functional as hpf
from lightning_hp.functional.sharpness import trajectory

SHAPES = ((7, 5), (5,), (3, 2, 2, 2))


def checkpoints(number: int, dtype: torch.dtype = torch.float32) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    now = [torch.randn(shape, generator=generator) for shape in SHAPES]
    made = []
    for step in range(number):
        now = [0.9 * w + 0.2 / (1 + step) * torch.randn(w.shape, generator=generator) for w in now]
        made.append([w.to(dtype) for w in now])
    return made


def matrix(several: list[list[Tensor]]) -> np.ndarray:
    return np.array([torch.cat([w.flatten() for w in one]).double().numpy() for one in several])


@pytest.mark.parametrize("chunk", [1 << 20, 40])
def test_it_is_the_svd(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(trajectory, "_CHUNK", chunk)
    several = checkpoints(9)
    plane = hpf.pca_directions(several, 3)
    whole = matrix(several)
    _, singular, vectors = np.linalg.svd(whole - whole.mean(0), full_matrices=False)
    np.testing.assert_allclose(plane.explained_variance_ratio, (singular**2 / (singular**2).sum())[:3], rtol=1e-9)
    found = matrix(plane.directions)
    np.testing.assert_allclose(np.abs((found * vectors[:3]).sum(1)), 1, atol=1e-6)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(plane.coordinates, (whole - whole[-1]) @ found.T, atol=1e-6)
    assert (plane.coordinates[0] > 0).all()
    assert not plane.coordinates[-1].any()
    assert [d.shape for d in plane.directions[0]] == [torch.Size(shape) for shape in SHAPES]


def test_small_steps_of_large_weights_are_resolved() -> None:
    """Differences are formed before they are squared: the weights are 1e6 times as large as their steps."""
    several = [[1000 + w.double() * 1e-3 for w in one] for one in checkpoints(6)]
    plane = hpf.pca_directions(several, 2)
    whole = matrix(several)
    singular = np.linalg.svd(whole - whole.mean(0), compute_uv=False)
    np.testing.assert_allclose(plane.explained_variance_ratio, (singular**2 / (singular**2).sum())[:2], rtol=1e-6)


def test_16_bits_and_memory_mapped_files(tmp_path: Path) -> None:
    several = checkpoints(5, torch.bfloat16)
    for number, one in enumerate(several):
        torch.save(one, tmp_path / f"{number}.pt")
    mapped = [torch.load(tmp_path / f"{number}.pt", mmap=True) for number in range(5)]
    plane, other = hpf.pca_directions(several), hpf.pca_directions(mapped)
    assert all(d.dtype == torch.bfloat16 for d in plane.directions[0])
    assert np.array_equal(plane.coordinates, other.coordinates)


def test_too_few_or_equal_checkpoints_are_refused() -> None:
    several = checkpoints(3)
    with pytest.raises(ValueError, match="at least 3 `checkpoints` for 2 directions, but got 2"):
        hpf.pca_directions(several[:2])
    with pytest.raises(ValueError, match="that span 2 dimensions, but got 4 that do not"):
        hpf.pca_directions([several[0], several[0], several[1], several[1]])
    with pytest.raises(ValueError, match=r"shape \(7, 5\) of its parameter"):
        hpf.pca_directions([several[0], several[1][::-1], several[2]])
    several[0][0][0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite `checkpoints`"):
        hpf.pca_directions(several)


def test_a_projection_is_least_squares() -> None:
    several = checkpoints(6)
    directions = hpf.random_directions(several[-1], 2, include_1d=True)
    found = hpf.project_weights(several, several[-1], directions)
    whole = matrix(several)
    expected = np.linalg.lstsq(matrix(directions).T, (whole - whole[-1]).T, rcond=None)[0].T
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
    plane = hpf.pca_directions(several)
    np.testing.assert_allclose(
        hpf.project_weights(several, several[-1], plane.directions), plane.coordinates, atol=1e-6
    )
    with pytest.raises(ValueError, match="linearly independent"):
        hpf.project_weights(several, several[-1], [directions[0], [2 * d for d in directions[0]]])
