"""Random directions, against the definition in the paper filter by filter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lightning_hp.functional as hpf
from tests.functional.sharpness.small_nets import net

WEIGHTS = [torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(3)), torch.randn(4, 7), torch.randn(6)]


def test_each_filter_has_the_norm_of_its_weights() -> None:
    first, second = hpf.random_directions(WEIGHTS, seed=5)
    for direction in (first, second):
        for d, w in zip(direction[:2], WEIGHTS[:2], strict=True):
            for i in range(len(w)):
                assert float(d[i].norm()) == pytest.approx(float(w[i].norm()), rel=1e-5)
        assert not direction[2].any()
    assert not torch.equal(first[0], second[0])


def test_it_is_the_drawn_direction_rescaled_filter_by_filter() -> None:
    generator = torch.Generator().manual_seed(7)
    drawn = [torch.randn(w.shape, generator=generator) for w in WEIGHTS]
    (direction,) = hpf.random_directions(WEIGHTS, 1, seed=7)
    expected = torch.stack([d * (w.norm() / d.norm()) for d, w in zip(drawn[0], WEIGHTS[0], strict=True)])
    torch.testing.assert_close(direction[0], expected)


def test_layers_and_none() -> None:
    (layers,) = hpf.random_directions(WEIGHTS, 1, normalization="layer", include_1d=True)
    for d, w in zip(layers, WEIGHTS, strict=True):
        assert float(d.norm()) == pytest.approx(float(w.norm()), rel=1e-5)
    assert np.ptp([float(d.norm() / w.norm()) for d, w in zip(layers[0], WEIGHTS[0], strict=True)]) > 0.1
    (plain,) = hpf.random_directions(WEIGHTS, 1, normalization="none", include_1d=True, seed=2)
    generator = torch.Generator().manual_seed(2)
    assert all(torch.equal(d, torch.randn(w.shape, generator=generator)) for d, w in zip(plain, WEIGHTS, strict=True))


def test_the_seed_decides_and_the_global_state_stays() -> None:
    before = torch.get_rng_state()
    three, two = hpf.random_directions(WEIGHTS, 3, seed=1), hpf.random_directions(WEIGHTS, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        torch.equal(a, b) for one, other in zip(two, three[:2], strict=True) for a, b in zip(one, other, strict=True)
    )
    assert not torch.equal(hpf.random_directions(WEIGHTS, 1, seed=2)[0][0], two[0][0])


def test_types_and_zero_filters() -> None:
    weights: list[Tensor] = [torch.randn(3, 4).bfloat16(), torch.randn(3, 4).double(), torch.zeros(2, 2)]
    (direction,) = hpf.random_directions(weights, 1)
    assert [d.dtype for d in direction] == [w.dtype for w in weights]
    assert not any(d.requires_grad for d in direction)
    assert all(d.isfinite().all() for d in direction)
    assert not direction[2].any()


def test_biases_and_norm_layers_of_a_network_do_not_move() -> None:
    model = net()
    (direction,) = hpf.random_directions(model.parameters(), 1)
    moving = {name for (name, _), d in zip(model.named_parameters(), direction, strict=True) if d.any()}
    assert moving == {"0.weight", "5.weight"}


@pytest.mark.gpu
def test_the_draws_are_the_same_on_an_accelerator() -> None:
    device = torch.accelerator.current_accelerator()
    there = hpf.random_directions([w.to(device) for w in WEIGHTS], seed=4)
    here = hpf.random_directions(WEIGHTS, seed=4)
    for one, other in zip(there, here, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a.cpu(), b)


class Sharded(Tensor):
    device_mesh = "a mesh"


def test_sharded_sparse_and_lazy_weights_are_refused() -> None:
    sharded = torch.ones(2, 2).as_subclass(Sharded)
    with pytest.raises(TypeError, match="to be a whole tensor, but got a sharded one"):
        hpf.random_directions([sharded])
    for bad, error in ((torch.ones(2, 2).to_sparse(), TypeError), (nn.LazyLinear(2).weight, ValueError)):
        with pytest.raises(error, match="Expected"):
            hpf.random_directions([bad])
    with pytest.raises(ValueError, match="each tensor once"):
        hpf.random_directions([WEIGHTS[0], WEIGHTS[0]])
